//go:build !linux && !darwin && !freebsd && !netbsd && !openbsd && !dragonfly

package main

import "os"

// discardTyped does nothing on systems other than Unix.
func discardTyped(*os.File) {}
