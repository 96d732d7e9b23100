package plexy

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"strings"
	"sync/atomic"

	"linkcancel/internal/clean"
)

// Key is an API key that prints, logs and marshals as "[redacted]". It is safe for concurrent use.
type Key struct {
	path    string // "" for NewKey
	current atomic.Pointer[secret]
	warning atomic.Pointer[string]
	hideBy  atomic.Pointer[clean.Secrets]
}

// secret is one value of a key, with the scrubber that removes it from texts.
type secret struct {
	value   string
	version uint64   // 1, 2, 3…
	header  []string // of Authorization; read only
	scrub   scrubber
}

// NewKey returns a key with the value of PLEXY_API_KEY, trimmed. The error never shows the value.
func NewKey(value string) (*Key, error) {
	k := &Key{}
	if _, err := k.set(value); err != nil {
		return nil, err
	}
	return k, nil
}

// LoadKeyFile reads a file that contains only a key. Warning reports unsafe permissions.
func LoadKeyFile(path string) (*Key, error) {
	k := &Key{path: path}
	if _, err := k.Reload(); err != nil {
		return nil, err
	}
	return k, nil
}

// Reload reads the key file again and reports whether the key changed. Errors keep the old key.
func (k *Key) Reload() (changed bool, err error) {
	if k.path == "" {
		return false, nil
	}
	value, warning, err := clean.ReadSecretFile(k.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("read the API key file: %w: write the key into that file, or give another path", err)
	case errors.Is(err, fs.ErrPermission):
		return false, fmt.Errorf("read the API key file: %w: make it readable for the user who runs this", err)
	case err != nil:
		return false, fmt.Errorf("read the API key file: %w", err)
	}
	if changed, err = k.set(value); err != nil {
		return false, fmt.Errorf("read the API key file %s: %w", k.path, err)
	}
	if warning != "" {
		warning = "the API key file " + warning
	}
	k.warning.Store(&warning)
	return changed, nil
}

// Warning returns advice if others than the owner can read the key file, or "".
func (k *Key) Warning() string {
	if w := k.warning.Load(); w != nil {
		return *w
	}
	return ""
}

// Source returns where the key came from: "the file /etc/key" or "PLEXY_API_KEY".
func (k *Key) Source() string {
	if k.path == "" {
		return "PLEXY_API_KEY"
	}
	return "the file " + k.path
}

// Version returns a number that grows each time the key changes. If it is the same before and after
// a request, the request was sent with that key.
func (k *Key) Version() uint64 { return k.secret().version }

// Fingerprint returns 6 hex digits of the key's HMAC-SHA256, to compare keys under one salt.
func (k *Key) Fingerprint(salt []byte) string {
	mac := hmac.New(sha256.New, salt)
	mac.Write([]byte(k.secret().value))
	return hex.EncodeToString(mac.Sum(nil)[:3])
}

// HideBy adds the key to secrets, now and after each Reload.
func (k *Key) HideBy(secrets *clean.Secrets) {
	k.hideBy.Store(secrets)
	secrets.Add(k.secret().value)
}

// set validates value and stores it as the key.
func (k *Key) set(value string) (changed bool, err error) {
	// Editors on Windows put a byte-order mark in front.
	value = strings.TrimSpace(strings.TrimPrefix(value, "\uFEFF"))
	if err := checkKey(value); err != nil {
		return false, err
	}
	if secrets := k.hideBy.Load(); secrets != nil {
		secrets.Add(value) // before anything can use it
	}
	old := k.secret()
	if value == old.value {
		return false, nil
	}
	k.current.Store(&secret{value: value, version: old.version + 1, header: []string{value}, scrub: newScrubber(value)})
	return true, nil
}

// secret returns the present value. It is empty for a zero Key.
func (k *Key) secret() *secret {
	if s := k.current.Load(); s != nil {
		return s
	}
	return &secret{scrub: newScrubber("")}
}

// checkKey returns why value cannot be a key, without showing it.
func checkKey(value string) error {
	switch {
	case value == "":
		return errors.New("the API key is empty")
	case strings.ContainsAny(value, "\r\n"):
		return errors.New("the API key has more than one line: keep only the key itself")
	case !printable(value):
		return errors.New("the API key contains a control character or one that is not ASCII: copy it again")
	}
	return nil
}

// printable reports whether text is printable ASCII, which every header can carry.
func printable(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

// String returns "[redacted]".
func (k *Key) String() string { return redacted }

// GoString returns "[redacted]", for %#v.
func (k *Key) GoString() string { return redacted }

// Format writes "[redacted]" for every verb.
func (k *Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue returns "[redacted]", for log/slog.
func (k *Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns "[redacted]", for JSON and others.
func (k *Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }
