package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"linkcancel/internal/broker"
	"linkcancel/internal/plexy"
)

const defaultBaseURL = plexy.DefaultBaseURL

// openTimeout is how long a command waits for Redis before it says so.
const openTimeout = 5 * time.Second

// open connects to Redis.
func (f redisFlags) open(a *app) (*broker.Broker, error) {
	// Whatever the environment says: the flag shows.
	if slices.ContainsFunc(given(a.args, "--redis-url"), broker.HasPassword) {
		return nil, usagef("a password in --redis-url shows in the process list\nhint: set LINKCANCEL_REDIS_URL, or LINKCANCEL_REDIS_PASSWORD_FILE to a file that holds it")
	}
	cfg := broker.Config{URL: f.RedisURL, Secrets: a.secrets}
	var err error
	if cfg.Password, err = a.password(f.RedisPasswordFile); err != nil {
		return nil, usagef("read the Redis password: %w", err)
	}
	if cfg.SentinelPassword, err = a.password(f.SentinelPasswordFile); err != nil {
		return nil, usagef("read the password of the Sentinels: %w", err)
	}
	ctx, cancel := context.WithTimeout(a.ctx, openTimeout)
	defer cancel()
	b, err := broker.Open(ctx, cfg)
	if errors.Is(err, broker.ErrURL) {
		return nil, usagef("%w", err)
	}
	if err != nil {
		return nil, err
	}
	if warning := b.Warning(a.ctx); warning != "" {
		a.log.Warn("redis configuration", "warning", warning)
	}
	return b, nil
}

// given are the values of a flag that stand on the command line.
func given(args []string, name string) (values []string) {
	for i, arg := range args {
		if value, ok := strings.CutPrefix(arg, name+"="); ok {
			values = append(values, value)
		} else if arg == name && i+1 < len(args) {
			values = append(values, args[i+1])
		}
	}
	return values
}

// password reads a password from a file; "" without one.
func (a *app) password(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	password, warning, err := broker.ReadPasswordFile(file)
	if warning != "" {
		a.log.Warn("redis password file", "warning", warning)
	}
	return password, err
}

// key finds the API key.
func (f apiFlags) key(a *app) (*plexy.Key, error) {
	if f.APIKeyFile != "" {
		key, err := plexy.LoadKeyFile(f.APIKeyFile)
		if err != nil {
			return nil, usagef("%w", err)
		}
		if warning := key.Warning(); warning != "" {
			a.log.Warn("api key file", "warning", warning)
		}
		key.HideBy(a.secrets)
		return key, nil
	}
	value := os.Getenv("PLEXY_API_KEY")
	if strings.TrimSpace(value) == "" {
		return nil, usagef("no API key\nhint: set PLEXY_API_KEY, or name a file that holds it with --api-key-file or PLEXY_API_KEY_FILE")
	}
	key, err := plexy.NewKey(value)
	if err != nil {
		return nil, usagef("PLEXY_API_KEY: %w", err)
	}
	key.HideBy(a.secrets)
	return key, nil
}

// client makes the API client.
func (f apiFlags) client(key *plexy.Key, concurrency int) (*plexy.Client, error) {
	client, err := plexy.New(plexy.Config{
		BaseURL: f.BaseURL, Key: key, Timeout: f.Timeout, Concurrency: concurrency,
		InsecureHTTP: f.InsecureHTTP, UserAgent: "linkcancel/" + version,
	})
	if errors.Is(err, plexy.ErrPlainHTTP) {
		return nil, usagef("%w\nhint: --insecure-http allows it", err)
	}
	if err != nil {
		return nil, usagef("%w", err)
	}
	return client, nil
}

// processID names this process in the fleet, as no other: two containers may
// have the same host name and process id.
func processID() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown-host"
	}
	return fmt.Sprintf("%s-%d-%s", host, os.Getpid(), strings.ToLower(rand.Text()[:4]))
}

// watchKey reads the key file again when it changes, and lets the limiter probe
// with the new key at once. It returns when ctx ends.
func watchKey(ctx context.Context, a *app, key *plexy.Key, changed func()) {
	every(ctx, keyCheck, func() {
		switch fresh, err := key.Reload(); {
		case err != nil:
			a.log.Warn("cannot read the api key file", "error", err)
		case fresh:
			a.log.Info("api key changed")
			changed()
		}
	})
}
