// Mutants checks the tests: it plants small bugs into linkcancel, one at a time, and runs the tests of
// the package that must find each. A bug that no test finds survives, and fails the run.
//
// The bugs are in mutants.txt, separated by empty lines:
//
//	# what is wrong
//	test ./worker TestRecorder
//	file worker/record.go
//	-	lines that the file has once
//	+	lines in their place
//
// The test line has the package, and what selects the tests that should find the bug. If they do not,
// all tests of the package run. A mutant may have several files, and several edits of each.
package main
