package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// confirm asks a question on the terminal. dataOnStdin: standard input is taken
// by the data. Without a terminal --yes is needed.
func (a *app) confirm(question string, dataOnStdin bool) error {
	if a.Yes {
		return nil
	}
	from := a.stdin
	if dataOnStdin {
		tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
		if err != nil {
			return usagef("nobody can be asked: there is no terminal\nhint: add --yes")
		}
		defer tty.Close()
		from = tty
	} else if !isTerminal(a.stdin) {
		return usagef("nobody can be asked: standard input is no terminal\nhint: add --yes")
	}
	fmt.Fprintf(a.stderr, "%s [y/N] ", question)
	answer := make(chan string, 1)
	go func() { // a read from a terminal cannot be ended
		line, err := bufio.NewReader(from).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			line = ""
		}
		answer <- line
	}()
	select {
	case <-a.ctx.Done():
		fmt.Fprintln(a.stderr)
		return a.ctx.Err()
	case line := <-answer:
		switch strings.ToLower(strings.TrimSpace(line)) {
		case "y", "yes":
			return nil
		}
	}
	return usagef("nothing was done")
}
