package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

// writeMan writes the manual page of all commands, in the language of man(7).
func writeMan(w io.Writer, app *kong.Application) error {
	m := &manual{w: bufio.NewWriter(w)}
	m.request(".TH", strings.ToUpper(app.Name), "1", "", app.Name+" "+version, "User Commands")
	m.section("NAME")
	m.text(app.Name + " - cancels payment links in bulk")
	m.section("SYNOPSIS")
	m.text(app.Name + " COMMAND [flags]")
	m.section("DESCRIPTION")
	m.text(app.Help)
	m.section("COMMANDS")
	m.commands(app.Name, app.Node)
	m.section("FLAGS OF ALL COMMANDS")
	m.flags(app.Flags)
	m.section("EXIT STATUS")
	for _, code := range [...][2]string{
		{"0", "Fine."},
		{"1", "An operation failed."},
		{"2", "Usage or bad input: nothing was done."},
		{"3", "From run, demo and batch watch: some links are failed, rejected, aborted, or not cancellable but still active or unknown."},
		{"130", "Interrupted; can be resumed."},
	} {
		m.item(code[0], code[1])
	}
	if err := m.w.Flush(); err != nil {
		return fmt.Errorf("write the manual page: %w", err)
	}
	return nil
}

// commands writes the commands of a group, each with its flags.
func (m *manual) commands(app string, group *kong.Node) {
	for _, c := range group.Children {
		if c.Hidden {
			continue
		}
		m.request(".SS", app+" "+c.Summary())
		m.text(c.Help)
		m.detail(c.Detail)
		for _, arg := range c.Positional {
			m.item(arg.Summary(), arg.Help)
		}
		m.flags(c.Flags)
		m.commands(app, c)
	}
}

// manual keeps no error: the buffer does.
type manual struct{ w *bufio.Writer }

var roff = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`)

// line writes a line of text, in which nothing is taken for a request.
func (m *manual) line(text string) {
	text = roff.Replace(text)
	if strings.HasPrefix(text, ".") {
		text = `\&` + text
	}
	fmt.Fprintln(m.w, text)
}

func (m *manual) request(name string, words ...string) {
	fmt.Fprint(m.w, name)
	for _, word := range words {
		fmt.Fprintf(m.w, ` "%s"`, strings.ReplaceAll(roff.Replace(word), `"`, `\(dq`))
	}
	fmt.Fprintln(m.w)
}

func (m *manual) section(name string) { m.request(".SH", name) }

func (m *manual) text(text string) {
	fmt.Fprintln(m.w, ".PP")
	m.line(text)
}

// detail writes paragraphs, and what is indented as it is.
func (m *manual) detail(text string) {
	if text == "" {
		return
	}
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		if !strings.HasPrefix(paragraph, "    ") {
			m.text(paragraph)
			continue
		}
		fmt.Fprintln(m.w, ".PP\n.RS 4\n.nf")
		for line := range strings.Lines(paragraph) {
			m.line(strings.TrimPrefix(strings.TrimSuffix(line, "\n"), "    "))
		}
		fmt.Fprintln(m.w, ".fi\n.RE")
	}
}

func (m *manual) item(name, text string) {
	fmt.Fprintln(m.w, ".TP")
	m.request(".B", name)
	m.line(text)
}

func (m *manual) flags(flags []*kong.Flag) {
	for _, f := range flags {
		if f.Hidden || f.Name == "help" {
			continue
		}
		name := f.Summary()
		if f.Short != 0 {
			name = "-" + string(f.Short) + ", " + name
		}
		m.item(name, kong.DefaultHelpValueFormatter(f.Value))
	}
}
