package main

import (
	"io"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// An empty variable, and one with white space alone, is like none: for every
// flag that a variable can set, in every command that has it.
func TestEmptyVariableIsUnset(t *testing.T) {
	leaves := parserOf(t).Model.Leaves(false)
	for _, leaf := range leaves {
		for _, name := range variablesOf(leaf) {
			t.Setenv(name, "") // to be put back
			_ = os.Unsetenv(name)
		}
	}
	found := 0
	for _, leaf := range leaves {
		args := commandLine(t, leaf)
		want := parsed(t, args)
		names := variablesOf(leaf)
		found += len(names)
		for _, value := range []string{"", " \t\r\n"} {
			for _, name := range names {
				if err := os.Setenv(name, value); err != nil {
					t.Fatal(err)
				}
			}
			cleanEnvironment()
			for _, name := range names {
				if _, ok := os.LookupEnv(name); ok {
					t.Errorf("%s=%q is still set: see ownPrefixes", name, value)
				}
			}
			if got := parsed(t, args); !reflect.DeepEqual(got, want) {
				t.Errorf("%q with all variables %q: %+v, want %+v", args, value, got, want)
			}
		}
	}
	if found < 50 {
		t.Errorf("%d variables of commands found", found)
	}
}

// variablesOf are the variables of all flags that a command has.
func variablesOf(leaf *kong.Node) (names []string) {
	for _, flags := range leaf.AllFlags(false) {
		for _, flag := range flags {
			names = append(names, flag.Envs...)
		}
	}
	return names
}

// commandLine finds arguments with which the command can be parsed.
func commandLine(t *testing.T, leaf *kong.Node) []string {
	t.Helper()
	args := strings.Fields(leaf.Path())
	for _, operand := range []string{"", "10/s", "bash", "b1", "b1 high"} {
		if operand != "" {
			args = append(strings.Fields(leaf.Path()), strings.Fields(operand)...)
		}
		if _, err := parserOf(t).Parse(args); err == nil {
			return args
		}
	}
	t.Fatalf("no arguments found for %s", leaf.Path())
	return nil
}

// parsed is what flags and variables set.
func parsed(t *testing.T, args []string) cli {
	t.Helper()
	var c cli
	parser, err := newParser(&c, io.Discard, io.Discard, kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(args); err != nil {
		t.Errorf("%q: %v", args, err)
	}
	return c
}

func TestWhiteSpaceAroundVariables(t *testing.T) {
	for _, tt := range []struct{ name, value, want string }{
		{"LINKCANCEL_REDIS_URL", "redis://host\n", "redis://host"},
		{"LINKCANCEL_RATE", "20/s\r", "20/s"},
		{"PLEXY_BASE_URL", " https://api.example.com/v1\r\n", "https://api.example.com/v1"},
		{"OTEL_SERVICE_NAME", "a b ", "a b"},
		{"SSL_CERT_FILE", "/etc/ca.pem\n", "/etc/ca.pem"},
		{"https_proxy", "http://proxy:1=2\n", "http://proxy:1=2"},
		{"LINKCANCEL", " another's ", " another's "},
		{"ANOTHERS_LINKCANCEL_RATE", "", ""},
	} {
		t.Setenv(tt.name, tt.value)
		cleanEnvironment()
		if got, ok := os.LookupEnv(tt.name); got != tt.want || !ok {
			t.Errorf("%s=%q: %q, %v, want %q", tt.name, tt.value, got, ok, tt.want)
		}
	}
}
