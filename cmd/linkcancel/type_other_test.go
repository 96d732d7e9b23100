//go:build !linux

package main

import "github.com/rogpeppe/go-internal/testscript"

func cmdType(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Fatalf("there is no terminal to type on")
}
