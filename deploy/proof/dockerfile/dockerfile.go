// Package dockerfile checks the Dockerfile by the linter of buildkit, and what
// the image must be.
package dockerfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

// File is the Dockerfile.
const File = "deploy/Dockerfile"

// anyImage replaces every base image: no registry is asked.
type anyImage struct{}

func (anyImage) ResolveImageConfig(_ context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	config := []byte(`{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/usr/local/go/bin:/usr/bin:/bin"]},"rootfs":{"type":"layers"}}`)
	return ref, digest.FromBytes(config), config, nil
}

// Lint runs buildkit's linter; every warning is an error.
func Lint(b []byte) error {
	source := llb.NewSourceMap(nil, File, "Dockerfile", b)
	source.Definition = &llb.Definition{}
	results, err := dockerfile2llb.DockerfileLint(context.Background(), b, dockerfile2llb.ConvertOpt{
		SourceMap:    source,
		MetaResolver: anyImage{},
	})
	if err != nil {
		return fmt.Errorf("lint the Dockerfile: %w", err)
	}
	var all []error
	if results.Error != nil {
		all = append(all, errors.New(results.Error.Message))
	}
	for _, w := range results.Warnings {
		all = append(all, fmt.Errorf("line %d: %s: %s", line(w.Location), w.RuleName, w.Detail))
	}
	return errors.Join(append(all, image(b))...)
}

func line(l *pb.Location) int32 {
	if l == nil || len(l.Ranges) == 0 {
		return 0
	}
	return l.Ranges[0].Start.Line
}

var userNumber = regexp.MustCompile(`^[1-9][0-9]*(:[1-9][0-9]*)?$`)

// image checks the last stage: nothing in it but ours, not as root, with a health
// check and labels.
func image(b []byte) error {
	tree, err := parser.Parse(bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("parse the Dockerfile: %w", err)
	}
	stages, _, err := instructions.Parse(tree.AST, nil)
	if err != nil {
		return fmt.Errorf("parse the Dockerfile: %w", err)
	}
	last := stages[len(stages)-1]
	var all []error
	if last.BaseName != "scratch" {
		all = append(all, fmt.Errorf("the image is made from %s, not scratch", last.BaseName))
	}
	user, health, entry := "", false, false
	var labels []string
	for _, command := range last.Commands {
		switch c := command.(type) {
		case *instructions.UserCommand:
			user = c.User
		case *instructions.HealthCheckCommand:
			health = slices.Contains(c.Health.Test, "healthcheck")
		case *instructions.EntrypointCommand:
			entry = !c.PrependShell
		case *instructions.LabelCommand:
			for _, l := range c.Labels {
				labels = append(labels, l.Key)
			}
		}
	}
	if !userNumber.MatchString(user) {
		all = append(all, fmt.Errorf("the image runs as %q, not as a number above 0", user))
	}
	if !health {
		all = append(all, errors.New("the image has no health check by linkcancel healthcheck"))
	}
	if !entry {
		all = append(all, errors.New("the image has no entry point, or one that wants a shell"))
	}
	for _, name := range []string{"title", "description", "licenses", "version", "revision"} {
		if !slices.Contains(labels, "org.opencontainers.image."+name) {
			all = append(all, fmt.Errorf("the image has no label org.opencontainers.image.%s", name))
		}
	}
	return errors.Join(all...)
}
