package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"linkcancel/internal/humanize"
)

// question is what confirm asks.
type question struct {
	text string
	// links is a number that the user must type. 0: y is enough.
	links int64
	// dataOnStdin: standard input is taken by the data, so the terminal is asked.
	dataOnStdin bool
	// yes: an empty answer means yes.
	yes bool
	// word: the answer is a word of its own, and the text is the whole prompt.
	word bool
}

// typedFrom is the number of links from which the user must type it: a y is typed too easily.
const typedFrom = 1001

// errDeclined means that the user answered no.
var errDeclined = errors.New("nothing was done")

// confirm asks on the terminal. Without one, --yes is needed. Earlier input is discarded.
func (a *cliApp) confirm(ctx context.Context, q question) error {
	if a.Yes {
		return nil
	}
	line, err := a.readAnswer(ctx, q)
	if err != nil {
		return err
	}
	if answered := strings.HasSuffix(line, "\n"); (answered || line != "") && q.agrees(strings.TrimSpace(line)) {
		return nil
	}
	if q.links > 0 {
		return usagef("%w: the number of links is %s", errDeclined, humanize.Digits(q.links))
	}
	return usagef("%w", errDeclined)
}

// askLine asks for a word.
func (a *cliApp) askLine(ctx context.Context, text string) (string, error) {
	line, err := a.readAnswer(ctx, question{text: text, word: true})
	if err == nil && !strings.HasSuffix(line, "\n") {
		err = usagef("%w", errDeclined)
	}
	return strings.TrimSpace(line), err
}

// readAnswer prints a question and reads a line.
func (a *cliApp) readAnswer(ctx context.Context, q question) (string, error) {
	from, done, err := a.terminal(q)
	if err != nil {
		return "", err
	}
	defer done()
	if errs, ok := a.stderr.(*output); ok {
		errs.flush(lastFlush)
	}
	discardTyped(from)
	fmt.Fprint(a.stderr, q.prompt())
	answer := make(chan string, 1)
	go func() { // a read from a terminal cannot be ended
		line, err := bufio.NewReader(from).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			line = ""
		}
		answer <- line
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(a.stderr)
		return "", ctx.Err()
	case line := <-answer:
		return line, nil
	}
}

func (q question) prompt() string {
	switch {
	case q.word:
		return q.text
	case q.links > 0:
		return fmt.Sprintf("%s Type the number of links (%s) to go ahead: ", q.text, humanize.Digits(q.links))
	case q.yes:
		return q.text + " [Y/n] "
	}
	return q.text + " [y/N] "
}

// agrees says whether an answer is yes, or the number of links: digits, perhaps in groups.
func (q question) agrees(answer string) bool {
	if q.links == 0 {
		answer = strings.ToLower(answer)
		return answer == "y" || answer == "yes" || q.yes && answer == ""
	}
	digits := strings.NewReplacer(" ", "", ",", "", ".", "", "'", "", "\u00a0", "", "\u202f", "").Replace(answer)
	return digits == strconv.FormatInt(q.links, 10)
}

// terminal is where the user can be asked, until done is called.
func (a *cliApp) terminal(q question) (tty *os.File, done func(), err error) {
	if q.dataOnStdin {
		if tty, err = os.OpenFile("/dev/tty", os.O_RDWR, 0); err != nil {
			return nil, nil, hint(usagef("cannot ask for confirmation: there is no terminal"), "add --yes")
		}
		return tty, func() { _ = tty.Close() }, nil
	}
	if !isTerminal(a.stdin) {
		return nil, nil, hint(usagef("cannot ask for confirmation: standard input is not a terminal"), "add --yes")
	}
	tty, _ = asFile(a.stdin)
	return tty, func() {}, nil
}
