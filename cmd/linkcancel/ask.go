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
)

// question is what confirm asks.
type question struct {
	text string
	// links is their number, which the user has to type; 0: y is enough.
	links int64
	// dataOnStdin: standard input is taken by the data, so the terminal is asked.
	dataOnStdin bool
}

// typedFrom is how many links an import, a run or a retry must have for the user to
// type their number. A y is typed too easily.
const typedFrom = 1001

// askToCancel is the question before links are cancelled.
func askToCancel(links int64, dataOnStdin bool) question {
	q := question{text: "Cancel them?", dataOnStdin: dataOnStdin}
	if links >= typedFrom {
		q.links = links
	}
	return q
}

// confirm asks on the terminal; without one --yes is needed. Input typed before the
// question is discarded.
func (a *cliApp) confirm(ctx context.Context, q question) error {
	if a.Yes {
		return nil
	}
	from, done, err := a.terminal(q.dataOnStdin)
	if err != nil {
		return err
	}
	defer done()
	if errs, ok := a.stderr.(*output); ok {
		errs.flush(lastFlush)
	}
	discardTyped(from)
	if q.links > 0 {
		fmt.Fprintf(a.stderr, "Type the number of links to cancel them (%s): ", groupDigits(q.links))
	} else {
		fmt.Fprintf(a.stderr, "%s [y/N] ", q.text)
	}
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
		return ctx.Err()
	case line := <-answer:
		if q.agrees(strings.TrimSpace(line)) {
			return nil
		}
	}
	if q.links > 0 {
		return usagef("nothing was done: the number of links is %s", groupDigits(q.links))
	}
	return usagef("nothing was done")
}

// agrees tells whether an answer is yes, or the number of links: digits, perhaps in
// groups.
func (q question) agrees(answer string) bool {
	if q.links == 0 {
		answer = strings.ToLower(answer)
		return answer == "y" || answer == "yes"
	}
	digits := strings.NewReplacer(" ", "", ",", "", ".", "", "'", "", "\u00a0", "", "\u202f", "").Replace(answer)
	return digits == strconv.FormatInt(q.links, 10)
}

// terminal is where the user can be asked, until done is called.
func (a *cliApp) terminal(dataOnStdin bool) (tty *os.File, done func(), err error) {
	if dataOnStdin {
		if tty, err = os.OpenFile("/dev/tty", os.O_RDWR, 0); err != nil {
			return nil, nil, usagef("cannot ask for confirmation: there is no terminal\nhint: add --yes")
		}
		return tty, func() { _ = tty.Close() }, nil
	}
	if !isTerminal(a.stdin) {
		return nil, nil, usagef("cannot ask for confirmation: standard input is not a terminal\nhint: add --yes")
	}
	tty, _ = asFile(a.stdin)
	return tty, func() {}, nil
}
