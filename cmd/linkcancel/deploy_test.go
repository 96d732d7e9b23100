package main

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"
)

// TestDeployRules holds the PrometheusRule of deploy/kubernetes to the rules of
// deploy/prometheus, which are the source. UPDATE=1 writes it.
func TestDeployRules(t *testing.T) {
	const source, path = "../../deploy/prometheus/rules.yml", "../../deploy/kubernetes/prometheusrule.yaml"
	rules, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	want.WriteString(`# Made by make docs from deploy/prometheus/rules.yml: change that.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: linkcancel
  labels:
    app.kubernetes.io/name: linkcancel
spec:
`)
	body := false
	for line := range strings.Lines(string(rules)) {
		if body = body || strings.HasPrefix(line, "groups:"); !body {
			continue // the comment at the top
		}
		if strings.TrimSpace(line) != "" {
			want.WriteString("  ")
		}
		want.WriteString(line)
	}
	if !body {
		t.Fatalf("%s has no groups", source)
	}
	have, err := os.ReadFile(path)
	if err != nil && os.Getenv("UPDATE") == "" {
		t.Fatal(err)
	}
	if string(have) == want.String() {
		return
	}
	if os.Getenv("UPDATE") == "" {
		t.Fatalf("%s is out of step with %s: make docs\n%s", path, source, cmp.Diff(string(have), want.String()))
	}
	if err := os.WriteFile(path, []byte(want.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// deployFiles returns the files by which linkcancel is deployed, by their path.
func deployFiles(t *testing.T) map[string]string {
	const root = "../../"
	files := map[string]string{}
	add := func(path string) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(filepath.ToSlash(path), root)] = string(text)
	}
	add(root + "docker-compose.yml")
	add(root + ".env.example")
	add(root + "deploy/Dockerfile")
	add(root + "deploy/docker-compose.live.yml")
	add(root + "deploy/README.md")
	add(root + "deploy/RUNBOOK.md")
	for _, dir := range []string{"deploy/kubernetes", "deploy/systemd"} {
		err := filepath.WalkDir(root+dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				add(path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// TestDeployCommands parses each command line of linkcancel in the files of
// deploy, and of its documents, as the binary would.
func TestDeployCommands(t *testing.T) {
	var (
		list   = regexp.MustCompile(`^\s*(?:command|args|test|CMD|HEALTHCHECK.* CMD):? \[(.*)\]`)
		unit   = regexp.MustCompile(`^ExecStart=/usr/local/bin/linkcancel (.*)`)
		typed  = regexp.MustCompile(`(?:^|\| |-- )linkcancel ([a-z][^|;]*)`)
		inline = regexp.MustCompile("`linkcancel ([a-z][^`]*)`")
	)
	files := deployFiles(t)
	parsed := map[string]int{}
	for name, text := range files {
		service, fenced := "", false
		for line := range strings.Lines(text) {
			line = strings.TrimRight(line, "\n")
			var commands [][]string
			switch {
			case strings.HasSuffix(name, ".md"):
				if strings.HasPrefix(strings.TrimSpace(line), "```") {
					fenced = !fenced
				}
				found := inline.FindAllStringSubmatch(line, -1)
				if fenced {
					found = typed.FindAllStringSubmatch(strings.TrimSpace(line), -1)
				}
				for _, m := range found {
					command := strings.ReplaceAll(m[1], "N/s", "1/s")
					for _, end := range []string{" #", " <", " >"} {
						command, _, _ = strings.Cut(command, end)
					}
					commands = append(commands, words(command))
				}
			case unit.MatchString(line):
				commands = [][]string{words(unit.FindStringSubmatch(line)[1])}
			case list.MatchString(line):
				args := words(strings.ReplaceAll(list.FindStringSubmatch(line)[1], ", ", " "))
				args = slices.DeleteFunc(args, func(arg string) bool { return arg == "CMD" || arg == "linkcancel" })
				commands = [][]string{args}
			case strings.HasPrefix(line, "  ") && len(line) > 2 && line[2] != ' ' && line[2] != '#':
				service = strings.TrimSpace(line)
			}
			if strings.Contains(name, "docker-compose") && !slices.Contains([]string{"sandbox:", "worker:", "page:", "cli:"}, service) {
				continue // another program's
			}
			for _, args := range commands {
				parser, err := newParser(&cli{}, io.Discard, io.Discard, kong.Exit(func(int) {}))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := parser.Parse(args); err != nil {
					t.Errorf("%s: linkcancel %s: %v", name, strings.Join(args, " "), err)
				}
				parsed[name]++
			}
		}
	}
	// What was not looked at cannot be wrong.
	for name, want := range map[string]int{
		"docker-compose.yml": 6, "deploy/docker-compose.live.yml": 1, "deploy/Dockerfile": 2, "deploy/README.md": 10, "deploy/RUNBOOK.md": 5,
		"deploy/kubernetes/deployment.yaml": 1, "deploy/kubernetes/cronjob.yaml": 1, "deploy/kubernetes/page/deployment.yaml": 1,
		"deploy/systemd/linkcancel-worker.service": 1, "deploy/systemd/linkcancel-sweep.service": 1, "deploy/systemd/linkcancel-page.service": 1,
	} {
		if parsed[name] < want {
			t.Errorf("%s: found %d commands, there should be %d", name, parsed[name], want)
		}
	}
}

// words splits a command line at spaces outside quotes.
func words(line string) []string {
	var out []string
	var word strings.Builder
	quote, open := rune(0), false
	for _, r := range line + " " {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '"' || r == '\''):
			quote, open = r, true
		case quote == 0 && r == ' ':
			if open {
				out = append(out, word.String())
			}
			word.Reset()
			open = false
		default:
			word.WriteRune(r)
			open = true
		}
	}
	return out
}

// TestDeployEnvironment knows each variable that the files of deploy set: from
// the flags, or as one that those files read themselves.
func TestDeployEnvironment(t *testing.T) {
	known := map[string]bool{
		// Not those of flags: the list of processes shows flags.
		"PLEXY_API_KEY": true, tokenVariable: true, operatorTokenVariable: true, notifyURLVariable: true, notifySecretVariable: true,
		"LINKCANCEL_PAGE_REDIS_PASSWORD_FILE": true, // of deploy/kubernetes/page itself
		// Of docker-compose.yml itself.
		"LINKCANCEL_IMAGE": true, "LINKCANCEL_VERSION": true, "LINKCANCEL_UID": true, "LINKCANCEL_USER": true,
	}
	parser, err := newParser(&cli{}, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	add := func(flags []*kong.Flag) {
		for _, flag := range flags {
			for _, name := range flag.Envs {
				known[name] = true
			}
		}
	}
	add(parser.Model.Flags)
	for _, leaf := range parser.Model.Leaves(false) {
		add(leaf.Flags)
	}
	files := deployFiles(t)
	variable := regexp.MustCompile(`\b(?:LINKCANCEL|PLEXY)_[A-Z_]*[A-Z]`)
	found := 0
	for path, text := range files {
		for _, name := range variable.FindAllString(text, -1) {
			if found++; !known[name] {
				t.Errorf("%s: nothing reads %s", path, name)
			}
		}
	}
	if found < 30 {
		t.Errorf("found %d variables in %d files: are they read?", found, len(files))
	}
	// What can be set for compose is in .env.example, and the other way round.
	setting, offered := regexp.MustCompile(`\$\{([A-Z_]+)`), regexp.MustCompile(`(?m)^#?([A-Z][A-Z_]+)=`)
	names := func(pattern *regexp.Regexp, texts ...string) []string {
		var out []string
		for _, text := range texts {
			for _, m := range pattern.FindAllStringSubmatch(text, -1) {
				out = append(out, m[1])
			}
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	used := names(setting, files["docker-compose.yml"], files["deploy/docker-compose.live.yml"])
	examples := slices.DeleteFunc(names(offered, files[".env.example"]), func(name string) bool { return name == "COMPOSE_FILE" })
	if diff := cmp.Diff(used, examples); diff != "" {
		t.Errorf("the compose files use other variables than .env.example shows:\n%s", diff)
	}
}
