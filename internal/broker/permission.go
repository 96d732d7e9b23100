package broker

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/redis/go-redis/v9"
)

// seePermissions says where all permissions stand, as a line for ACL SETUSER.
const seePermissions = `"Permissions" in deploy/README.md lists all of them`

// permissionRefusals are what Redis says when a user lacks a permission. Releases
// before 7.0 and since 7.2 say NOPERM inside a script, too; 7.0 says the others.
var permissionRefusals = []string{
	"NOPERM",
	"user executing the script can't",
}

// commandRefused finds the command that may not be run. Releases since 7.2 name
// the user before it, and name it inside a script, too.
var commandRefused = regexp.MustCompile(`permissions to run the '([^']+)' command`)

// permissionRefused reports whether Redis refused a command because its user lacks a
// permission.
func permissionRefused(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply) && mentionsPermission(reply.Error())
}

func mentionsPermission(text string) bool {
	for _, refusal := range permissionRefusals {
		if strings.Contains(text, refusal) {
			return true
		}
	}
	return false
}

// infoRefused reports whether INFO failed because the server forbids it: by its
// access control, or by rename-command.
func infoRefused(err error) bool {
	if permissionRefused(err) {
		command := commandRefused.FindStringSubmatch(answer(err).Error())
		return command != nil && strings.EqualFold(command[1], "info")
	}
	return err != nil && infoUnknown.MatchString(answer(err).Error())
}

var infoUnknown = regexp.MustCompile("(?i)^ERR unknown command [`']?info\\b")

// permissions is a hook that adds to a refusal what to grant. Redis says neither
// which key it refuses nor, before 7.2, which command of a script.
type permissions struct{}

// permissionError is a redis.Error.
type permissionError struct {
	error
	grant string
}

func (e permissionError) Error() string { return fmt.Sprintf("%v (%s)", e.error, e.grant) }
func (e permissionError) Unwrap() error { return e.error }

// RedisError marks an answer of the server.
func (permissionError) RedisError() {}

func (permissions) explain(cmd redis.Cmder, err error) error {
	var explained permissionError
	if !permissionRefused(err) || errors.As(err, &explained) {
		return err
	}
	what := strings.ToUpper(cmd.Name())
	if keys := keysOf(cmd); len(keys) > 0 {
		what += " on " + strings.Join(keys, " ")
	}
	return permissionError{err, grantFor(what, answer(err).Error())}
}

// grantFor says what to grant after Redis refused what was sent.
func grantFor(sent, refusal string) string {
	if command := commandRefused.FindStringSubmatch(refusal); command != nil {
		return fmt.Sprintf("grant +%s; %s", strings.ToLower(command[1]), seePermissions)
	}
	grant := "all commands of scripts"
	switch {
	case strings.Contains(refusal, "channel"):
		grant = "&asynq:cancel &lc:rate"
	case strings.Contains(refusal, "key"):
		grant = "~lc:* ~asynq:*"
	}
	return fmt.Sprintf("%s: grant %s; %s", sent, grant, seePermissions)
}

// keysOf are the keys of a command, as far as our use of Redis goes: those of a
// script, and the first argument of any other command.
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

// DialHook is part of redis.Hook.
func (permissions) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook is part of redis.Hook.
func (p permissions) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := p.explain(cmd, next(ctx, cmd))
		if err != nil {
			cmd.SetErr(err)
		}
		return err
	}
}

// ProcessPipelineHook is part of redis.Hook.
func (p permissions) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		for _, cmd := range cmds {
			refused := cmd.Err()
			if !permissionRefused(refused) {
				continue
			}
			explained := p.explain(cmd, refused)
			cmd.SetErr(explained)
			if errors.Is(err, refused) {
				err = explained
			}
		}
		return err
	}
}
