package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"
)

// TestDocsFlags holds the table of flags in docs/cli.md to the command line. UPDATE=1 writes it.
func TestDocsFlags(t *testing.T) {
	const path, begin, end = "../../docs/cli.md", "<!-- flags -->\n", "<!-- /flags -->"
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(raw), begin)
	have, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("docs/cli.md has no %s…%s", begin, end)
	}
	want := flagsTable(t)
	if have == want {
		return
	}
	if os.Getenv("UPDATE") == "" {
		t.Fatalf("docs/cli.md is out of step with the flags: make docs\n%s", cmp.Diff(have, want))
	}
	if err := os.WriteFile(path, []byte(head+begin+want+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}

func flagsTable(t *testing.T) string {
	parser, err := newParser(&cli{}, os.Stdout, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("| flag | environment | default | commands | |\n|---|---|---|---|---|\n")
	type row struct {
		flag     *kong.Flag
		commands []string
	}
	var order []string
	rows := map[string]*row{}
	add := func(command string, flags []*kong.Flag) {
		for _, f := range flags {
			if f.Hidden || f.Name == "help" {
				continue
			}
			key := f.Name + f.Default + f.Help
			if rows[key] == nil {
				rows[key] = &row{flag: f}
				order = append(order, key)
			}
			rows[key].commands = append(rows[key].commands, command)
		}
	}
	add("all", parser.Model.Flags)
	for _, leaf := range parser.Model.Leaves(true) {
		if leaf.Path() != "sandbox" {
			add(leaf.Path(), leaf.Flags)
		}
	}
	for _, key := range order {
		f := rows[key].flag
		env := ""
		if len(f.Envs) > 0 {
			env = "`" + f.Envs[0] + "`"
		}
		value := f.Default
		if value != "" {
			value = "`" + value + "`"
		}
		fmt.Fprintf(&b, "| `--%s` | %s | %s | %s | %s |\n", f.Name, env, value, strings.Join(rows[key].commands, ", "), escapeCell(f))
	}
	b.WriteString("\n`linkcancel sandbox --help` lists the faults of the sandbox API.\n")
	return b.String()
}

// escapeCell is the help of a flag without its default, which has its column.
func escapeCell(f *kong.Flag) string {
	help := f.Help
	if f.Default != "" {
		help = strings.Replace(help, "; by default "+f.Default, "", 1)
	}
	return strings.ReplaceAll(help, "|", `\|`)
}
