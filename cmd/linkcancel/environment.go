package main

import (
	"errors"
	"os"
	"slices"
	"strings"
)

// The variables that linkcancel reads. net/http and crypto/x509 read the ones without a prefix.
var (
	ownPrefixes    = []string{"LINKCANCEL_", "PLEXY_", "SANDBOX_", "OTEL_"}
	otherVariables = []string{"SSL_CERT_FILE", "SSL_CERT_DIR",
		"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}
)

// cleanEnvironment unsets empty variables, which compose files set (${VAR:-}) and kong would take
// for a value. It trims the others, because files of variables leave line ends behind values.
func cleanEnvironment() {
	for _, pair := range os.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		if !isRead(name) {
			continue
		}
		// Both fail for names alone that no variable has.
		switch trimmed := strings.TrimSpace(value); trimmed {
		case "":
			_ = os.Unsetenv(name)
		case value:
		default:
			_ = os.Setenv(name, trimmed)
		}
	}
}

// isRead says whether linkcancel reads the variable.
func isRead(name string) bool {
	return slices.Contains(otherVariables, name) ||
		slices.ContainsFunc(ownPrefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// errNoMetricsAddr: an empty address would mean all addresses of the machine and any port.
var errNoMetricsAddr = errors.New("--metrics-addr is empty: give HOST:PORT, or off")

// Validate is called by kong.
func (f metricsFlags) Validate() error {
	if strings.TrimSpace(f.MetricsAddr) == "" {
		return errNoMetricsAddr
	}
	return nil
}

// Validate is called by kong.
func (c healthcheckCmd) Validate() error {
	return metricsFlags{MetricsAddr: c.MetricsAddr}.Validate()
}
