package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// discardTyped throws away what was typed on a terminal and not read.
func discardTyped(tty *os.File) {
	_ = unix.IoctlSetInt(int(tty.Fd()), unix.TCFLSH, unix.TCIFLUSH) // of no terminal there is nothing to discard
}
