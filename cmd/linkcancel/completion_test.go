package main

import (
	"io"
	"slices"
	"strings"
	"testing"
)

func TestComplete(t *testing.T) {
	parser, err := newParser(&cli{}, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	batches := func() []candidate {
		return []candidate{{"march", "done"}, {"april-1", "running"}, {"april-2", "paused"}}
	}
	for line, want := range map[string]string{
		"":                                   "… batch …",
		"ba":                                 "batch",
		"nope":                               "",
		"nope ":                              "… batch …",
		"batch re":                           "report resume retry",
		"batch retry --out":                  "--outcome",
		"batch retry --outcome ":             "failed aborted rejected not_cancellable not_found",
		"batch retry --outcome fa":           "failed",
		"batch retry --outcome=fa":           "--outcome=failed",
		"batch retry --outcome failed,ab":    "failed,aborted",
		"batch retry --outcome=failed,ab":    "--outcome=failed,aborted",
		"batch report --outcome pe":          "pending",
		"batch report --format = j":          "jsonl", // as bash splits it
		"batch report --format =":            "csv jsonl",
		"batch report --format=":             "--format=csv --format=jsonl",
		"batch report --nope=":               "",
		"batch report --join ":               ":files",
		"batch report -o ":                   ":files",
		"batch report -o=":                   ":files",
		"batch report march --join x ":       "",
		"batch show ":                        "latest march april-1 april-2",
		"batch show ap":                      "april-1 april-2",
		"batch show -- ap":                   "april-1 april-2",
		"batch show march ":                  "",
		"batch show --redis-url ap":          "",
		"batch show --json ap":               "april-1 april-2",
		"batch show -y --log-level error ma": "march",
		"--log-level ":                       "debug info warn error",
		"import ":                            ":files",
		"import a.csv b":                     ":files",
		"import --yes --max 7 -":             "… --column …",
		"help ":                              "… batch …",
		"help batch wat":                     "watch",
		"help batch watch ":                  "",
		"help nope ":                         "",
		"completion ":                        "bash zsh fish",
		"run --resume ":                      ":files",
		"__":                                 "", // what is hidden
		"version ":                           "",
	} {
		var got []string
		for _, c := range complete(parser.Model.Node, strings.Split(line, " "), batches) {
			got = append(got, c.word)
		}
		if word, ok := strings.CutPrefix(want, "… "); ok { // among others
			word = strings.TrimSuffix(word, " …")
			if !slices.Contains(got, word) || len(got) < 5 || slices.Contains(got, "__complete") {
				t.Errorf("%q: %q, without %q", line, got, word)
			}
		} else if strings.Join(got, " ") != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
	if got := complete(parser.Model.Node, nil, batches); len(got) < 5 {
		t.Errorf("nothing typed: %q", got)
	}
}
