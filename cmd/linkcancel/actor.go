package main

import (
	"cmp"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"linkcancel/internal/clean"
	"linkcancel/internal/history"
)

// reasonFlag is a flag of all commands that change something.
type reasonFlag struct {
	Reason string `help:"Why, for the history." placeholder:"TEXT"`
}

// maxReason is the longest reason, in bytes.
const maxReason = 500

// AfterApply checks the flag.
func (f reasonFlag) AfterApply() error {
	if len(f.Reason) > maxReason {
		return usagef("--reason has %d bytes: use at most %d", len(f.Reason), maxReason)
	}
	return nil
}

// by says who runs this command, and why.
func (f reasonFlag) by() history.By {
	return history.By{Actor: actor(), Reason: clean.Line(strings.TrimSpace(f.Reason))}
}

// maxActor is the longest name of a user that is kept, in bytes.
const maxActor = 100

// actor names the user of this command: LINKCANCEL_USER, or user@host.
func actor() string {
	if name := strings.TrimSpace(os.Getenv("LINKCANCEL_USER")); name != "" {
		return cutName(clean.Line(name))
	}
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, _ := os.Hostname() // "" if it has none
	return cutName(clean.Line(name + "@" + cmp.Or(host, "unknown-host")))
}

// cutName shortens a name to maxActor.
func cutName(name string) string {
	if len(name) <= maxActor {
		return name
	}
	end := maxActor - len("…")
	for !utf8.RuneStart(name[end]) {
		end--
	}
	return name[:end] + "…"
}

// fileList names files for a batch, without their folders.
func fileList(files []string) string {
	var names []string
	for _, file := range files {
		if file == "-" {
			names = append(names, "standard input")
		} else {
			names = append(names, filepath.Base(file))
		}
	}
	return cutName(clean.Line(strings.Join(names, ", ")))
}
