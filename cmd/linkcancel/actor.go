package main

import (
	"cmp"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"linkcancel/internal/history"
)

// reasonFlag is a flag of all commands that change something.
type reasonFlag struct {
	Reason string `help:"Why, for the history." placeholder:"TEXT"`
}

// AfterApply checks the flag.
func (f reasonFlag) AfterApply() error {
	if _, err := history.Person("", f.Reason); err != nil {
		return usagef("--reason: %w", err)
	}
	return nil
}

// by says who runs this command, and why.
func (f reasonFlag) by() history.By {
	by, _ := history.Person(actor(), f.Reason) // AfterApply has checked it
	return by
}

// actor names the user of this command: LINKCANCEL_USER, or user@host.
func actor() string {
	if name := strings.TrimSpace(os.Getenv("LINKCANCEL_USER")); name != "" {
		return history.Name(name)
	}
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, _ := os.Hostname() // "" if it has none
	return history.Name(name + "@" + cmp.Or(host, "unknown-host"))
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
	return history.Name(strings.Join(names, ", "))
}
