package main

import "os"

// spareFiles is how many file descriptors are kept for the report: it takes its
// own file, one input file at a time, and the folder of both.
const spareFiles = 4

// spare are files that are open for nothing but their descriptors. The requests
// of a run may take all others.
type spare []*os.File

// keepSpare opens as many spare files as there are descriptors, up to n.
func keepSpare(n int) (s spare) {
	for range n {
		f, err := os.Open(os.DevNull)
		if err != nil {
			break // a run may still need fewer
		}
		s = append(s, f)
	}
	return s
}

// release gives the descriptors back. It may be called twice.
func (s spare) release() {
	for _, f := range s {
		_ = f.Close()
	}
}
