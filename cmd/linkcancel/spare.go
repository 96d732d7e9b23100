package main

import "os"

// spareFiles is how many file descriptors the report needs: its own, an input file, the folder.
const spareFiles = 4

// spare are open files that hold descriptors. The requests of a run may take all others.
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
