package broker

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// What releases of Redis say that the other tests do not run on.
func TestRefusalsOfOtherReleases(t *testing.T) {
	for text, want := range map[string]string{
		"NOPERM this user has no permissions to run the 'info' command or its subcommand": "grant +info; ",
		"NOPERM User linkcancel has no permissions to run the 'cluster|slots' command":    "grant +cluster|slots; ",
		"NOPERM No permissions to access a key":                                           "EVALSHA on lc:a: grant ~lc:* ~asynq:*; ",
		"NOPERM No permissions to access a channel":                                       "EVALSHA on lc:a: grant &asynq:cancel &lc:queue &lc:rate; ",
		"ERR Error running script (call to f_1): @user_script:1: @user_script: 1: -NOPERM this user has no permissions to run the 'get' command or its subcommand": "grant +get; ",
		"ERR ACL failure in script: NOPERM User u has no permissions to run the 'get' command script: 1, on @user_script:1.":                                       "grant +get; ",
		"ERR The user executing the script can't run this command or subcommand script: 1, on @user_script:1.":                                                     "EVALSHA on lc:a: grant all commands of scripts; ",
	} {
		cmd := redis.NewCmd(t.Context(), "evalsha", "sha", 1, "lc:a", "arg")
		err := explain(cmd, reply(text))
		if want := text + " (" + want + seePermissions + ")"; err.Error() != want {
			t.Errorf("%v\nwant %s", err, want)
		}
		if again := explain(cmd, err); again.Error() != err.Error() {
			t.Errorf("explained twice: %v", again)
		}
	}
	for _, err := range append(lasting, passing...) {
		if got := explain(redis.NewCmd(t.Context(), "get"), err); !errors.Is(got, err) || got.Error() != err.Error() {
			t.Errorf("%v became %v", err, got)
		}
	}
	if infoRefused(nil) || infoRefused(reply("ERR unknown command 'information', with args")) || infoRefused(reply("NOPERM No permissions to access a key")) {
		t.Error("not every refusal is one of INFO")
	}
	if !infoRefused(reply("ERR unknown command `INFO`, with args beginning with: `server`, ")) {
		t.Error("Redis 6.2 refuses INFO by backquotes")
	}
}

// asynq asks for the next task at once when a permission is missing.
func TestRefusedScriptWaitsWithoutADeadline(t *testing.T) {
	for _, deadline := range []time.Duration{0, time.Minute} {
		refusal := reply("NOPERM this user has no permissions to run the 'evalsha' command")
		f := &fake{errs: []error{refusal, refusal}}
		run(t, f, deadline, func(_ context.Context, send func(...any) error) {
			if err := send("evalsha", "sha", 0); !errors.Is(err, refusal) {
				t.Error(err)
			}
			want := pauseNoDeadline
			if deadline > 0 {
				want = 0 // asynq gives up
			}
			if took := time.Since(f.start); took != want {
				t.Errorf("with a deadline of %v it took %v, want %v", deadline, took, want)
			}
		})
		if len(f.called) != 1 {
			t.Errorf("sent %d times", len(f.called))
		}
	}
}
