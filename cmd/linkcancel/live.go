package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

const (
	// liveEvery is how often the line is drawn again.
	liveEvery = 200 * time.Millisecond
	// liveLast is how long end waits for a terminal that Ctrl-S may have stopped.
	liveLast = 2 * time.Second
)

// live is a line at the bottom of a terminal that is drawn again and again. What is written to it
// appears above the line.
type live struct {
	term *terminal
	out  *queue // a write never waits for the terminal
	line func(t *terminal, columns int) string
	done chan struct{}
	once sync.Once
	wait sync.WaitGroup

	mu    sync.Mutex
	shown bool
}

// startLive draws the line until end. It returns nil if w is not a terminal that can redraw a line.
func startLive(w io.Writer, line func(t *terminal, columns int) string) *live {
	term := terminalOf(w)
	if term == nil {
		return nil
	}
	l := &live{term: term, line: line, done: make(chan struct{})}
	if o, ok := w.(*output); ok && o.to == io.Writer(o.queue) {
		l.out = o.queue // standard error, in order with what others write to it
	} else {
		l.out = newQueue(term.file)
	}
	l.wait.Go(func() {
		ticker := time.NewTicker(liveEvery)
		defer ticker.Stop()
		for {
			select {
			case <-l.done:
				return
			case <-ticker.C:
				l.draw()
			}
		}
	})
	return l
}

func (l *live) draw() {
	l.mu.Lock()
	defer l.mu.Unlock()
	// The last column stays empty: some terminals begin a new line after it.
	fmt.Fprintf(l.out, "\r\x1b[K%s", l.line(l.term, l.term.columns()-1))
	l.shown = true
}

// Write prints above the line. It is for text without control characters.
func (l *live) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clear()
	return l.out.Write(b)
}

func (l *live) clear() {
	if l.shown {
		fmt.Fprint(l.out, "\r\x1b[K")
		l.shown = false
	}
}

// end stops drawing and removes the line, or leaves its last state. It may be called twice.
func (l *live) end(keep bool) {
	l.once.Do(func() {
		close(l.done)
		l.wait.Wait()
		if keep {
			l.draw()
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if keep {
			fmt.Fprintln(l.out)
			l.shown = false
		} else {
			l.clear()
		}
		l.out.flush(liveLast)
	})
}

// terminal is a terminal that understands control sequences.
type terminal struct {
	file    *os.File
	color   bool // unless NO_COLOR is set
	unicode bool // by the locale
}

// terminalOf returns the terminal behind w, or nil if w is a file or a pipe, or if the terminal is
// dumb or has no width.
func terminalOf(w io.Writer) *terminal {
	if !isTerminal(w) || width(w) == 0 || os.Getenv("TERM") == "dumb" {
		return nil
	}
	f, _ := asFile(w)
	return &terminal{file: f, color: os.Getenv("NO_COLOR") == "", unicode: unicodeLocale()}
}

func (t *terminal) columns() int { return width(t.file) }

// unicodeLocale reports whether the locale shows characters beyond ASCII.
func unicodeLocale() bool {
	for _, name := range [...]string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if locale := strings.ToLower(os.Getenv(name)); locale != "" {
			return strings.Contains(locale, "utf-8") || strings.Contains(locale, "utf8")
		}
	}
	return false
}

// The colors of text. Problems are red, and what needs attention yellow.
const (
	red    = "31"
	yellow = "33"
	bold   = "1"
)

// paint colors a text for a terminal.
func (t *terminal) paint(color, text string) string {
	if t == nil || !t.color || color == "" || text == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// segment is a part of a line of limited width.
type segment struct {
	texts []string // from the longest to the shortest, which may be ""
	// ranks says when each text but the last gives way to the next: the lowest rank of all
	// segments first.
	ranks []int
	color string
}

// fit joins segments to a line of at most so many columns. It shortens whole segments, and never
// cuts a text: a number that is cut off reads as another number.
func fit(t *terminal, columns int, segments []segment) string {
	chosen := make([]int, len(segments))
	for {
		width, lowest := 0, -1
		for i, s := range segments {
			if n := utf8.RuneCountInString(s.texts[chosen[i]]); n > 0 {
				width += n + 2
			}
			if chosen[i]+1 < len(s.texts) && (lowest < 0 || s.ranks[chosen[i]] < segments[lowest].ranks[chosen[lowest]]) {
				lowest = i
			}
		}
		if width-2 <= columns || lowest < 0 {
			break
		}
		chosen[lowest]++
	}
	var parts []string
	for i, s := range segments {
		if text := s.texts[chosen[i]]; text != "" {
			parts = append(parts, t.paint(s.color, text))
		}
	}
	return strings.Join(parts, "  ")
}

// paintLine prints a line in a color, if w is a terminal that shows colors.
func paintLine(w io.Writer, t *terminal, color, line string) {
	o, ok := w.(*output)
	if !ok || t == nil || !t.color || color == "" {
		fmt.Fprintln(w, line)
		return
	}
	o.control("\x1b[" + color + "m")
	fmt.Fprint(w, line)
	o.control("\x1b[0m")
	fmt.Fprintln(w)
}
