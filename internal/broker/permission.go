package broker

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/redis/go-redis/v9"
)

// seePermissions refers to the list of all permissions.
const seePermissions = `"Permissions" in deploy/README.md lists all of them`

// commandRefused matches the refused command. Since 7.2 the user's name comes before it.
var commandRefused = regexp.MustCompile(`permissions to run the '([^']+)' command`)

// permissionRefused reports whether Redis refused a command for lack of a permission.
func permissionRefused(err error) bool {
	reply, ok := errors.AsType[redis.Error](err)
	return ok && mentionsPermission(reply.Error())
}

// mentionsPermission recognizes a missing permission. Redis 7.0 uses the second text in scripts.
func mentionsPermission(text string) bool {
	return strings.Contains(text, "NOPERM") || strings.Contains(text, "user executing the script can't")
}

// infoRefused reports whether the server forbids INFO, by access control or rename-command.
func infoRefused(err error) bool {
	if permissionRefused(err) {
		command := commandRefused.FindStringSubmatch(answer(err).Error())
		return command != nil && strings.EqualFold(command[1], "info")
	}
	return err != nil && infoUnknown.MatchString(answer(err).Error())
}

var infoUnknown = regexp.MustCompile("(?i)^ERR unknown command [`']?info\\b")

// permissionError is a redis.Error.
type permissionError struct {
	error
	grant string
}

func (e permissionError) Error() string { return fmt.Sprintf("%v (%s)", e.error, e.grant) }
func (e permissionError) Unwrap() error { return e.error }

// RedisError implements redis.Error.
func (permissionError) RedisError() {}

// explain adds to a refusal what to grant. Redis names neither the refused key nor, before 7.2,
// the refused command of a script.
func explain(cmd redis.Cmder, err error) error {
	if _, explained := errors.AsType[permissionError](err); explained || !permissionRefused(err) {
		return err
	}
	what := strings.ToUpper(cmd.Name())
	if keys := keysOf(cmd); len(keys) > 0 {
		what += " on " + strings.Join(keys, " ")
	}
	return permissionError{err, grantFor(what, answer(err).Error())}
}

// grantFor returns what to grant for a refused command.
func grantFor(sent, refusal string) string {
	if command := commandRefused.FindStringSubmatch(refusal); command != nil {
		return fmt.Sprintf("grant +%s; %s", strings.ToLower(command[1]), seePermissions)
	}
	grant := "all commands of scripts"
	switch {
	case strings.Contains(refusal, "channel"):
		grant = "&asynq:cancel &lc:queue &lc:rate"
	case strings.Contains(refusal, "key"):
		grant = "~lc:* ~asynq:*"
	}
	return fmt.Sprintf("%s: grant %s; %s", sent, grant, seePermissions)
}

// keysOf returns the keys of a script, or the first argument of any other command.
func keysOf(cmd redis.Cmder) (keys []string) {
	args := cmd.Args()
	first, count := 1, 1
	if isScript(cmd) {
		first, count = 3, 0
		if len(args) > 2 {
			count, _ = args[2].(int)
		}
	}
	for i := first; i < min(first+count, len(args)); i++ {
		if key, ok := args[i].(string); ok {
			keys = append(keys, key)
		}
	}
	return keys
}
