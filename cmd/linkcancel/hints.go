package main

import (
	"errors"
	"fmt"
	"strings"

	"linkcancel/internal/archive"
	"linkcancel/internal/broker"
	"linkcancel/internal/importer"
	"linkcancel/internal/linkcsv"
	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
	"linkcancel/metrics"
	"linkcancel/web"
)

// hinted is an error with advice for the user.
type hinted struct {
	error
	advice string
}

func (h *hinted) Unwrap() error { return h.error }

func hint(err error, format string, args ...any) error {
	return &hinted{err, fmt.Sprintf(format, args...)}
}

// hints is the advice for errors of other packages, which know no flags, variables or commands.
var hints = []struct {
	err    error
	advice string
}{
	{archive.ErrFolder, "make the folder and let this user write to it"},
	{broker.ErrIsSentinel, "give " + broker.FormSentinel},
	{broker.ErrIsCluster, "give " + broker.FormCluster},
	{broker.ErrSentinelPassword, "set LINKCANCEL_REDIS_SENTINEL_PASSWORD_FILE to a file that holds it"},
	{broker.ErrPassword, "set LINKCANCEL_REDIS_PASSWORD_FILE to a file that holds it, or LINKCANCEL_REDIS_URL to redis://USER:PASSWORD@HOST:PORT/DB, where % is written %25"},
	{broker.ErrInfoRefused, "allow it, by +info in an ACL"},
	{broker.ErrNotCluster, "give " + broker.FormSingle + " or " + broker.FormSentinel},
	{broker.ErrNotSentinels, "give " + broker.FormSingle + " or " + broker.FormCluster},
	{broker.ErrCertificate, "if its CA is your own, let SSL_CERT_FILE name the CA's file"},
	{broker.ErrSkipVerify, "let SSL_CERT_FILE name the file of the CA"},
	{broker.ErrNoAnswer, "start it, or name another with --redis-url or LINKCANCEL_REDIS_URL, such as " + broker.DefaultURL},
	{broker.ErrUnescaped, "in a password write # as %23, % as %25, / as %2F, ? as %3F, @ as %40; the file that LINKCANCEL_REDIS_PASSWORD_FILE names holds it as it is"},
	{metrics.ErrListen, "choose another with --metrics-addr HOST:PORT, or --metrics-addr off"},
	{web.ErrListen, "choose another with --addr HOST:PORT"},
	{plexy.ErrPlainHTTP, "--insecure-http allows it"},
	{importer.ErrOtherLinks, "choose another --id"},
	{ratelimit.ErrZero, "to stop sending, use linkcancel rate hold"},
}

// inputHints names the flags in the hints of an InputError.
var inputHints = strings.NewReplacer(
	linkcsv.HintColumn, "Choose the column with --column, by its name or by its number from 1.",
	linkcsv.HintColumnRange, "Give --column a number from 1 to",
	linkcsv.HintColumnName, "Give --column one of these names, or a number from 1.",
	linkcsv.HintColumnNumber, "Give --column the number instead of the name.",
	importer.HintMax, "Nothing was done. Allow more with --max, or give a smaller file.",
	importer.HintStdin, "Nothing was done. Standard input is read only once: save it to a file to leave such rows out, or accept them with --any-id.",
	importer.HintRows, "Nothing was done. Correct these rows, or leave them out with --skip-invalid (--rejects FILE keeps them).",
	importer.HintNone, "Look at them without --skip-invalid, or choose another column with --column.",
)

// adviceFor returns the advice for an error; "" if there is none.
func adviceFor(err error) string {
	var h *hinted
	if errors.As(err, &h) {
		return h.advice
	}
	for _, known := range hints {
		if errors.Is(err, known.err) {
			return known.advice
		}
	}
	return ""
}
