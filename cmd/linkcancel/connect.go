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

	"linkcancel/internal/app"
	"linkcancel/internal/broker"
	"linkcancel/internal/plexy"
)

const defaultBaseURL = plexy.DefaultBaseURL

// openTimeout is how long a command waits for Redis before it says so.
const openTimeout = 5 * time.Second

// open connects to Redis.
func (f redisFlags) open(ctx context.Context, a *cliApp) (*broker.Broker, error) {
	// The process list shows flags, not the environment.
	if slices.ContainsFunc(given(a.args, "--redis-url"), broker.HasPassword) {
		return nil, hint(usagef("a password in --redis-url shows in the process list"), "set LINKCANCEL_REDIS_URL, or LINKCANCEL_REDIS_PASSWORD_FILE to a file that holds it")
	}
	cfg := broker.Config{URL: f.RedisURL, Secrets: a.secrets}
	var err error
	if cfg.Password, err = a.password(f.RedisPasswordFile); err != nil {
		return nil, usagef("read the Redis password: %w", err)
	}
	if cfg.SentinelPassword, err = a.password(f.SentinelPasswordFile); err != nil {
		return nil, usagef("read the password of the Sentinels: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	b, err := broker.Open(ctx, cfg)
	if errors.Is(err, broker.ErrURL) {
		return nil, usagef("%w", err)
	}
	if err != nil {
		return nil, err
	}
	if warning := b.Warning(ctx); warning != "" {
		a.log.Warn("redis configuration", "warning", warning)
	}
	return b, nil
}

// given returns the values of a flag on the command line.
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
func (a *cliApp) password(file string) (string, error) {
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
func (f apiFlags) key(a *cliApp) (*plexy.Key, error) {
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
		return nil, hint(usagef("no API key"), "set PLEXY_API_KEY, or name a file that holds it with --api-key-file or PLEXY_API_KEY_FILE")
	}
	key, err := plexy.NewKey(value)
	if err != nil {
		return nil, usagef("PLEXY_API_KEY: %w", err)
	}
	key.HideBy(a.secrets)
	return key, nil
}

// connect reads the key and makes the API client. It sends nothing.
func (f apiFlags) connect(a *cliApp, concurrency int) (*plexy.Key, *plexy.Client, error) {
	key, err := f.key(a)
	if err != nil {
		return nil, nil, err
	}
	client, err := f.client(key, concurrency)
	return key, client, err
}

// client makes the API client.
func (f apiFlags) client(key *plexy.Key, concurrency int) (*plexy.Client, error) {
	client, err := plexy.New(plexy.Config{
		BaseURL: f.BaseURL, Key: key, Timeout: f.Timeout, Concurrency: concurrency,
		InsecureHTTP: f.InsecureHTTP, UserAgent: "linkcancel/" + version,
	})
	if err != nil {
		return nil, usagef("%w", err)
	}
	return client, nil
}

// processID is unique in the fleet, even if two containers have the same host name and process id.
func processID() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown-host"
	}
	return fmt.Sprintf("%s-%d-%s", host, os.Getpid(), strings.ToLower(rand.Text()[:4]))
}

// check refuses settings that no worker can work with.
func (f sendFlags) check() error {
	switch {
	case f.Burst < 1:
		return usagef("--burst %d: use 1 or more", f.Burst)
	case f.Concurrency < 1 || f.Concurrency > 10_000:
		return usagef("--concurrency %d: use 1 to 10000", f.Concurrency)
	case f.Attempts < 1 || f.Attempts > 200:
		return usagef("--attempts %d: use 1 to 200", f.Attempts)
	case f.DrainTimeout < 0 || f.DrainTimeout > 5*time.Minute:
		return usagef("--drain-timeout %v: use 0s to 5m", f.DrainTimeout)
	}
	return nil
}

// options are those of the flags.
func (f sendFlags) options(a *cliApp, key *plexy.Key, client *plexy.Client) app.Options {
	return app.Options{
		ID: a.id, Version: version, Key: key, Client: client, Rate: f.Rate, Burst: f.Burst, Concurrency: f.Concurrency,
		Attempts: f.Attempts, DrainTimeout: f.DrainTimeout, TrustPlain404: f.TrustPlain404, Keep: a.Keep, Log: a.log, Tracer: a.tracer,
	}
}

// serve serves metrics and health, if wanted, until stop is called, even after ctx has ended.
func (f metricsFlags) serve(ctx context.Context, e *app.App) (stop func(), err error) {
	ctx, stop = context.WithCancel(context.WithoutCancel(ctx))
	if f.MetricsAddr == "off" {
		return stop, nil
	}
	if err := e.Serve(ctx, f.MetricsAddr, f.Pprof); err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}
