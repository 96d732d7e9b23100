package main

import (
	"context"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/rogpeppe/go-internal/testscript"
)

// aclLines are the rules of each user of Redis in deploy/README.md, line by line.
func aclLines(t testing.TB) map[string][][]any {
	t.Helper()
	text, err := os.ReadFile("../../deploy/README.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string][][]any{}
	for _, m := range regexp.MustCompile(`(?m)^ACL SETUSER (\S+) (.*)$`).FindAllStringSubmatch(string(text), -1) {
		var rules []any
		for _, rule := range strings.Fields(m[2]) {
			rules = append(rules, rule)
		}
		lines[m[1]] = append(lines[m[1]], rules)
	}
	if users := slices.Sorted(maps.Keys(lines)); !slices.Equal(users, []string{"linkcancel-operator", "linkcancel-worker"}) {
		t.Fatalf("deploy/README.md has users %q", users)
	}
	return lines
}

// TestDocsPermissions: the documented user of workers may run every command of the
// scripts, ours and asynq's. Few of them run in any one test.
func TestDocsPermissions(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/hibiken/asynq").Output()
	if err != nil {
		t.Fatal(err)
	}
	files := []string{filepath.Join(strings.TrimSpace(string(dir)), "internal/rdb/rdb.go")}
	for _, pattern := range []string{"../../internal/ledger/*.lua", "../../internal/ratelimit/*.lua"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %q, %v", pattern, found, err)
		}
		files = append(files, found...)
	}
	granted := map[any]bool{}
	for _, rules := range aclLines(t)["linkcancel-worker"] {
		for _, rule := range rules {
			granted[rule] = true
		}
	}
	call := regexp.MustCompile(`redis\.p?call\(["'](\w+)["']`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range call.FindAllStringSubmatch(string(text), -1) {
			if !granted["+"+strings.ToLower(m[1])] {
				t.Errorf("%s runs %s, which deploy/README.md does not grant", file, m[1])
			}
		}
	}
}

// acl-users makes the users of deploy/README.md in Redis; WORKER and OPERATOR are
// the URLs with them.
func cmdACLUsers(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 0, "acl-users")
	s := of(ts)
	lines := aclLines(s.t)
	ts.Check(s.eachServer(ts, func(ctx context.Context, server *redis.Client, cluster bool) error {
		for user, all := range lines {
			for _, rules := range all {
				if slices.Contains(rules, any("+cluster|slots")) && !cluster {
					continue
				}
				if i := slices.Index(rules, any(">PASSWORD")); i >= 0 {
					rules[i] = ">sesame"
				}
				if err := server.Do(ctx, append([]any{"ACL", "SETUSER", user}, rules...)...).Err(); err != nil {
					return err
				}
			}
		}
		return nil
	}))
	for name, user := range map[string]string{"WORKER": "linkcancel-worker", "OPERATOR": "linkcancel-operator"} {
		ts.Setenv(name, strings.Replace(s.redis, "://", "://"+user+":sesame@", 1))
	}
}

// acl-clean checks that Redis refused nothing for lack of a permission.
func cmdACLClean(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 0, "acl-clean")
	ts.Check(of(ts).eachServer(ts, func(ctx context.Context, server *redis.Client, _ bool) error {
		log, err := server.Do(ctx, "ACL", "LOG").Slice()
		if len(log) > 0 {
			ts.Fatalf("Redis refused: %v", log)
		}
		return err
	}))
}

// eachServer calls do for each server that takes writes.
func (s *state) eachServer(ts *testscript.TestScript, do func(ctx context.Context, server *redis.Client, cluster bool) error) error {
	b := s.open(ts)
	defer b.Close()
	switch client := b.Client().(type) {
	case *redis.ClusterClient:
		return client.ForEachMaster(context.Background(), func(ctx context.Context, server *redis.Client) error { return do(ctx, server, true) })
	case *redis.Client:
		return do(context.Background(), client, false)
	}
	return nil
}
