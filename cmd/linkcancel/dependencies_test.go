package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// released are the platforms of make release.
var released = []string{"linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64", "windows/amd64"}

// TestDocsDependencies holds docs/dependencies.md to go.mod, to what is linked
// and to the licences. UPDATE=1 writes the list of what is linked.
func TestDocsDependencies(t *testing.T) {
	const path, begin, end = "../../docs/dependencies.md", "<!-- linked -->\n", "<!-- /linked -->"
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(raw), begin)
	have, tail, ok2 := strings.Cut(rest, end)
	chosen, testsOnly, ok3 := strings.Cut(head, "## Those of tests alone")
	if !ok || !ok2 || !ok3 {
		t.Fatalf("docs/dependencies.md has no %s…%s, or no part for tests", begin, end)
	}
	linked := map[string]string{} // modules and where they are
	for _, platform := range released {
		maps.Copy(linked, linkedModules(t, platform))
	}
	wantChosen, wantTests := map[string]string{}, map[string]string{}
	for _, module := range direct(t) {
		if folder, ok := linked[module]; ok {
			wantChosen[module] = licence(t, module, folder)
			delete(linked, module)
		} else {
			wantTests[module] = licence(t, module, moduleFolder(t, module))
		}
	}
	if diff := cmp.Diff(wantChosen, tableOf(t, chosen)); diff != "" {
		t.Errorf("docs/dependencies.md, those that we chose: %s", diff)
	}
	if diff := cmp.Diff(wantTests, tableOf(t, testsOnly)); diff != "" {
		t.Errorf("docs/dependencies.md, those of tests alone: %s", diff)
	}
	want := "| module | licence |\n|---|---|\n"
	for _, module := range slices.Sorted(maps.Keys(linked)) {
		want += fmt.Sprintf("| `%s` | %s |\n", module, licence(t, module, linked[module]))
	}
	switch {
	case have == want:
	case os.Getenv("UPDATE") == "":
		t.Errorf("docs/dependencies.md is out of step with what is linked: make docs\n%s", cmp.Diff(have, want))
	default:
		if err := os.WriteFile(path, []byte(head+begin+want+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func goCommand(t *testing.T, env []string, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v", strings.Join(args, " "), err)
	}
	return string(out)
}

// linkedModules are the modules that a release binary has code of.
func linkedModules(t *testing.T, platform string) map[string]string {
	t.Helper()
	system, machine, _ := strings.Cut(platform, "/")
	out := goCommand(t, []string{"GOOS=" + system, "GOARCH=" + machine, "CGO_ENABLED=0"},
		"list", "-deps", "-f", `{{with .Module}}{{if not .Main}}{{.Path}} {{.Dir}}{{end}}{{end}}`, ".")
	modules := map[string]string{}
	for line := range strings.Lines(out) {
		if module, folder, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			modules[module] = folder
		}
	}
	return modules
}

// direct are the modules that go.mod requires for our own imports.
func direct(t *testing.T) (modules []string) {
	t.Helper()
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal([]byte(goCommand(t, nil, "mod", "edit", "-json")), &mod); err != nil {
		t.Fatal(err)
	}
	for _, r := range mod.Require {
		if !r.Indirect {
			modules = append(modules, r.Path)
		}
	}
	return modules
}

func moduleFolder(t *testing.T, module string) string {
	t.Helper()
	return strings.TrimSpace(goCommand(t, nil, "list", "-m", "-f", "{{.Dir}}", module))
}

var row = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (.+) \\| (.+) \\| (.+) \\|$")

// tableOf reads modules and licences from a part of the page. Each row says what
// the module is for, and why.
func tableOf(t *testing.T, text string) map[string]string {
	modules := map[string]string{}
	for _, m := range row.FindAllStringSubmatch(text, -1) {
		if modules[m[1]] != "" || strings.TrimSpace(m[2]) == "" || strings.TrimSpace(m[3]) == "" {
			t.Errorf("docs/dependencies.md: %s is there twice, or without a reason", m[1])
		}
		modules[m[1]] = m[4]
	}
	return modules
}

// licences are those that ask for nothing but their own text in what is
// distributed, with the words that only they have. The first that fits counts.
var licences = []struct {
	name  string
	words []string
}{
	{"Apache-2.0", []string{"Apache License Version 2.0, January 2004", "Grant of Patent License", "Redistribution."}},
	{"MIT", []string{"Permission is hereby granted, free of charge, to any person obtaining a copy", "to use, copy, modify, merge, publish, distribute, sublicense, and/or sell", `THE SOFTWARE IS PROVIDED "AS IS"`}},
	{"BSD-3-Clause", []string{"Redistribution and use in source and binary forms, with or without modification, are permitted", "Redistributions in binary form must reproduce", "Neither the name"}},
	{"BSD-2-Clause", []string{"Redistribution and use in source and binary forms, with or without modification, are permitted", "Redistributions in binary form must reproduce"}},
	{"ISC", []string{"Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted"}},
	{"Unlicense", []string{"This is free and unencumbered software released into the public domain."}},
}

// conditions are words of licences that ask for more; whatever else the text has.
var conditions = regexp.MustCompile(`(?i)GNU (Affero |Lesser |Library )?General Public|Mozilla Public|Business Source|Server Side Public|Commons Clause|Elastic License|Eclipse Public|Creative Commons|advertising materials`)

// licence reads the licence of a module, from its own folder.
func licence(t *testing.T, module, folder string) string {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	found := ""
	for _, entry := range entries {
		name := strings.ToUpper(entry.Name())
		if entry.IsDir() || !strings.HasPrefix(name, "LICENSE") && !strings.HasPrefix(name, "LICENCE") && !strings.HasPrefix(name, "COPYING") && !strings.HasPrefix(name, "UNLICENSE") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(folder, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		kind := licenceOf(string(text))
		if kind == "" {
			t.Errorf("%s: %s is no licence that is known to be fine: read it, and add it here or leave the module out", module, entry.Name())
		}
		if found == "" {
			found = kind
		} else if found != kind {
			found += " and " + kind
		}
	}
	if found == "" {
		t.Errorf("%s has no licence", module)
	}
	return found
}

func licenceOf(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if conditions.MatchString(text) {
		return ""
	}
	for _, l := range licences {
		if !slices.ContainsFunc(l.words, func(words string) bool { return !strings.Contains(text, words) }) {
			return l.name
		}
	}
	return ""
}

// What asks for more than its text is not taken, and neither is what is unknown.
func TestLicences(t *testing.T) {
	mit := strings.Join(licences[1].words, "\n  ")
	for text, want := range map[string]string{
		mit: "MIT",
		mit + "\n\"Commons Clause\" License Condition v1.0":                                     "",
		"GNU GENERAL PUBLIC LICENSE Version 3":                                                  "",
		"All rights reserved.":                                                                  "",
		strings.Join(licences[2].words, " "):                                                    "BSD-3-Clause",
		strings.Join(licences[3].words, " "):                                                    "BSD-2-Clause",
		strings.Join(licences[3].words, " ") + " All advertising materials mentioning features": "",
		"": "",
	} {
		if got := licenceOf(text); got != want {
			t.Errorf("%.60q: %s, want %s", text, got, want)
		}
	}
}
