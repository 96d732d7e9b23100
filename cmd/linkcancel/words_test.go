package main

import (
	"errors"
	"os"
	"os/exec"
	"testing"
)

// TestDocsWords keeps phrases out of code and documents that a native speaker would
// not use. CONTRIBUTING.md has the rules; this is the list of what came up before.
func TestDocsWords(t *testing.T) {
	bad := []string{
		"sign of life", "signs of life", "pretend API", "pretended", "nobody can be asked", "stands already",
		"belongs into", "mend the cause", "is told of already", "has to be mended", "whoever asks",
		"in this moment", "goes on all the same", "the way there has",
	}
	args := []string{"grep", "-nIiF"}
	for _, phrase := range bad {
		args = append(args, "-e", phrase)
	}
	args = append(args, "--", ":/", ":(exclude,top)CHANGELOG.md", ":(exclude,top)cmd/linkcancel/words_test.go")
	out, err := exec.Command("git", args...).CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		t.Errorf("use plain English:\n%s", out)
	case errors.As(err, &exit) && exit.ExitCode() == 128 && os.Getenv("CI") == "":
		t.Skip("not a git checkout")
	case !errors.As(err, &exit) || exit.ExitCode() != 1: // 1: nothing was found
		t.Errorf("git grep: %v\n%s", err, out)
	}
}
