package main

import (
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// example finds the linkcancel commands of a line of help.
var example = regexp.MustCompile(`\blinkcancel ([^|&>)]*)`)

// Every example in a help text is a command line that linkcancel takes.
func TestHelpExamples(t *testing.T) {
	model := parserOf(t).Model
	examples := 0
	var walk func(*kong.Node)
	walk = func(node *kong.Node) {
		for line := range strings.Lines(node.Detail) {
			if !strings.HasPrefix(line, "    ") {
				continue
			}
			for _, found := range example.FindAllStringSubmatch(line, -1) {
				args := shellWords(found[1])
				if _, err := parserOf(t).Parse(args); err != nil {
					t.Errorf("help of %s: linkcancel %q: %v", node.Path(), args, err)
				}
				examples++
			}
		}
		if node.Leaf() && node.Help == "" {
			t.Errorf("%s says nothing of itself", node.Path())
		}
		for _, c := range node.Children {
			walk(c)
		}
	}
	walk(model.Node)
	if examples < 30 {
		t.Errorf("%d examples found", examples)
	}
}

func parserOf(t *testing.T) *kong.Kong {
	t.Helper()
	parser, err := newParser(&cli{}, io.Discard, io.Discard, kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	return parser
}

// shellWords splits a simple command line, with "quoted words" and a # comment.
func shellWords(line string) []string {
	var words []string
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 1 {
			words = append(words, part)
			continue
		}
		part, _, comment := strings.Cut(part, "#")
		words = append(words, strings.Fields(part)...)
		if comment {
			break
		}
	}
	return words
}
