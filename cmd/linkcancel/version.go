package main

import (
	"context"
	"fmt"
	"runtime"
)

// version is set by the build.
var version = "dev"

type versionCmd struct{}

func (versionCmd) Run(ctx context.Context, a *cliApp) error {
	if a.JSON {
		return printJSON(a.stdout, map[string]string{"version": version, "go": runtime.Version()})
	}
	fmt.Fprintf(a.stdout, "linkcancel %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}
