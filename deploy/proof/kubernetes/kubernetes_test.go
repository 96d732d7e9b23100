package kubernetes

import (
	"maps"
	"strings"
	"testing"

	"linkcancel/deploy/proof/repo"
	"linkcancel/deploy/proof/rules"
)

func read(t *testing.T) Files {
	t.Helper()
	files, err := Read(repo.Path(t, Dir))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestLint(t *testing.T) {
	if err := read(t).Lint(repo.Read(t, rules.File)); err != nil {
		t.Error(err)
	}
}

func TestLintFinds(t *testing.T) {
	files, rulesFile := read(t), repo.Read(t, rules.File)
	for name, test := range map[string]struct{ file, old, replacement, want string }{
		"field that does not exist":       {"deployment.yaml", "  replicas: 2", "  replica: 2", `unknown field "spec.replica"`},
		"field of a pod":                  {"cronjob.yaml", "          restartPolicy: Never", "          restartPolice: Never", `unknown field "spec.jobTemplate.spec.template.spec.restartPolice"`},
		"field twice":                     {"deployment.yaml", "  replicas: 2", "  replicas: 2\n  replicas: 3", "already set"},
		"wrong type":                      {"deployment.yaml", "  replicas: 2", "  replicas: two", "replicas"},
		"kind that does not exist":        {"poddisruptionbudget.yaml", "kind: PodDisruptionBudget", "kind: PodDisruptionBudgets", "no kind"},
		"version that is gone":            {"poddisruptionbudget.yaml", "apiVersion: policy/v1", "apiVersion: policy/v1beta1", "no kind"},
		"field of a custom resource":      {"servicemonitor.yaml", "scrapeTimeout:", "scrapeTimeOut:", "unknown field"},
		"key of the kustomization":        {kustomization, "configMapGenerator:", "configMapGenerators:", "configMapGenerators"},
		"manifest that is not built":      {kustomization, "  - poddisruptionbudget.yaml\n", "", "poddisruptionbudget.yaml is in no kustomization"},
		"manifest that is not there":      {kustomization, "  - service.yaml", "  - services.yaml", "service.yaml is in no kustomization"},
		"service selects nothing":         {"service.yaml", "  selector:\n    app.kubernetes.io/name: linkcancel", "  selector:\n    app.kubernetes.io/name: linkcancels", "Service linkcancel selects no pod"},
		"service to no port":              {"service.yaml", "targetPort: metrics", "targetPort: metric", "no container has the port"},
		"monitor of no port":              {"servicemonitor.yaml", "port: metrics", "port: metric", "has no port"},
		"budget for nothing":              {"poddisruptionbudget.yaml", "    matchLabels:\n      app.kubernetes.io/name: linkcancel", "    matchLabels:\n      app.kubernetes.io/name: other", "PodDisruptionBudget linkcancel-worker selects no pod"},
		"job that no rule looks at":       {"service.yaml", "name: linkcancel\n  labels", "name: worker\n  labels", "begins with linkcancel"},
		"rule that differs":               {"prometheusrule.yaml", "expr: count by (job) (linkcancel_redis_up == 0) > 0", "expr: count by (job) (linkcancel_redis_up == 0) > 1", "see LinkcancelRedisAway"},
		"more rights than are restricted": {"deployment.yaml", "            allowPrivilegeEscalation: false\n", "", "allowPrivilegeEscalation"},
	} {
		t.Run(name, func(t *testing.T) {
			changed := maps.Clone(files)
			changed[test.file] = repo.Mutate(t, files[test.file], test.old, test.replacement)
			if err := changed.Lint(rulesFile); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("found %v, not %q", err, test.want)
			}
		})
	}
}
