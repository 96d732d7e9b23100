package dockerfile

import (
	"strings"
	"testing"

	"linkcancel/deploy/proof/repo"
)

func TestLint(t *testing.T) {
	if err := Lint(repo.Read(t, File)); err != nil {
		t.Error(err)
	}
}

func TestLintFinds(t *testing.T) {
	for name, test := range map[string]struct{ old, replacement, want string }{
		"instruction misspelt":  {"STOPSIGNAL", "STOPSIGNALS", "unknown instruction"},
		"case":                  {"AS build", "as build", "FromAsCasing"},
		"shell form":            {`CMD ["worker"]`, "CMD worker", "JSONArgsRecommended"},
		"relative path":         {"WORKDIR /src", "WORKDIR src", "WorkdirRelativePath"},
		"reserved stage":        {"AS build", "AS context", "ReservedStageName"},
		"undefined variable":    {`version="${VERSION}"`, `version="${VERSIONS}"`, "UndefinedVar"},
		"secret in the image":   {"ARG VERSION=dev\nARG TARGETOS", "ARG PLEXY_API_KEY\nARG VERSION=dev\nARG TARGETOS", "SecretsUsedInArgOrEnv"},
		"as root":               {"USER 65532:65532", "USER root", "not as a number"},
		"no health check":       {`CMD ["linkcancel", "healthcheck"]`, `CMD ["linkcancel", "version"]`, "no health check"},
		"a whole system":        {"FROM scratch", "FROM debian:13", "not scratch"},
		"a label is missing":    {"org.opencontainers.image.licenses", "licenses", "no label"},
		"entry point by shell":  {`ENTRYPOINT ["linkcancel"]`, "ENTRYPOINT linkcancel", "wants a shell"},
		"two commands":          {`CMD ["worker"]`, "CMD [\"worker\"]\nCMD [\"version\"]", "MultipleInstructionsDisallowed"},
		"legacy key value form": {"ENV LINKCANCEL_METRICS_ADDR=:9464", "ENV LINKCANCEL_METRICS_ADDR :9464", "LegacyKeyValueFormat"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := Lint(repo.Mutate(t, repo.Read(t, File), test.old, test.replacement)); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("found %v, not %q", err, test.want)
			}
		})
	}
}
