//go:build !linux && !darwin && !freebsd && !netbsd && !openbsd && !dragonfly

package main

import "os"

// discardTyped does nothing where terminals are none of Unix.
func discardTyped(*os.File) {}
