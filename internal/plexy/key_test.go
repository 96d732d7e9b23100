package plexy

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"linkcancel/internal/clean"
)

func TestNewKey(t *testing.T) {
	for _, value := range []string{"abc", " abc\r\n", "\ufeffabc\n", "\tabc "} {
		k, err := NewKey(value)
		if err != nil || k.secret().value != "abc" {
			t.Errorf("NewKey(%q) = %v", value, err)
		}
		if changed, err := k.Reload(); changed || err != nil {
			t.Errorf("Reload = %v, %v", changed, err)
		}
	}
	for value, want := range map[string]string{
		"": "empty", " \n": "empty", "hunter2\nhunter2": "more than one line", "hunter2\rhunter2": "more than one line",
		"hunter2\x00": "control character", "hunter2\x7f": "control character", "hunter2é": "not ASCII",
	} {
		_, err := NewKey(value)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("NewKey(%q) = %v, want %s", value, err, want)
		}
	}
}

func TestKeySource(t *testing.T) {
	k, err := NewKey("hunter2")
	if err != nil || k.Source() != "PLEXY_API_KEY" {
		t.Errorf("NewKey: %q, %v", k.Source(), err)
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := LoadKeyFile(path)
	if err != nil || file.Source() != "the file "+path {
		t.Errorf("LoadKeyFile: %q, %v", file.Source(), err)
	}
}

// Different keys have different fingerprints under one salt.
func TestKeyFingerprint(t *testing.T) {
	fingerprint := func(key, salt string) string {
		k, err := NewKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return k.Fingerprint([]byte(salt))
	}
	// echo -n hunter2 | openssl dgst -sha256 -hmac salt
	if got, want := fingerprint(" hunter2\n", "salt"), "d03a12"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if fingerprint("hunter2", "salt") == fingerprint("hunter3", "salt") || fingerprint("hunter2", "salt") == fingerprint("hunter2", "pepper") {
		t.Error("another key or another salt has the same fingerprint")
	}
}

func TestKeyNeverShows(t *testing.T) {
	k, err := NewKey(testKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{Key: k})
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("a", "key", k, "config", Config{Key: k}, "client", c)
	slog.New(slog.NewTextHandler(&log, nil)).Info("a", "key", k, "config", Config{Key: k}, "client", c)
	text := log.String()
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%10s"} {
		text += fmt.Sprintf(format, k) + fmt.Sprintf(format, Config{Key: k}) + fmt.Sprintf(format, c) + fmt.Sprintf(format, []any{k, *c})
		if got := fmt.Sprintf(format, k); got != redacted {
			t.Errorf("%s shows %q", format, got)
		}
	}
	text += fmt.Sprint(k) + k.String() + k.GoString() + k.LogValue().String()
	b, err := json.Marshal(map[string]any{"key": k, "config": Config{Key: k}})
	if err != nil || !strings.Contains(string(b), redacted) {
		t.Errorf("json: %s, %v", b, err)
	}
	text += string(b)
	if strings.Contains(text, "sk_test") || strings.Contains(text, fmt.Sprintf("%x", testKey)) {
		t.Errorf("the key shows in %s", text)
	}
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := LoadKeyFile(path); err == nil || !strings.Contains(err.Error(), "write the key into that file") {
		t.Errorf("missing file: %v", err)
	}
	if _, err := LoadKeyFile(filepath.Dir(path)); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("directory: %v", err)
	}
	write("hunter2\n")
	k, err := LoadKeyFile(path)
	if err != nil || k.secret().value != "hunter2" || k.Warning() != "" {
		t.Fatalf("LoadKeyFile = %v, warning %q", err, k.Warning())
	}
	secrets := clean.NewSecrets()
	k.HideBy(secrets)
	for _, bad := range []string{"", "hunter3\nhunter4\n", "hunter3" + strings.Repeat("x", clean.MaxSecretFile)} {
		write(bad)
		changed, err := k.Reload()
		if changed || err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "hunter") || k.secret().value != "hunter2" {
			t.Errorf("Reload of %.20q = %v, %v", bad, changed, err)
		}
	}
	write("hunter2")
	if changed, err := k.Reload(); changed || err != nil {
		t.Errorf("Reload of the same = %v, %v", changed, err)
	}
	write("hunter5")
	if changed, err := k.Reload(); !changed || err != nil || k.secret().value != "hunter5" {
		t.Errorf("Reload = %v, %v", changed, err)
	}
	// What is printed shows neither the new key nor the old one, which requests may still have.
	if got := secrets.Hide("was hunter2, is hunter5"); got != "was [redacted], is [redacted]" {
		t.Errorf("printed: %q", got)
	}
	if runtime.GOOS == "windows" {
		return
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Reload(); err != nil || !strings.Contains(k.Warning(), "(mode 0640): chmod 600") {
		t.Errorf("warning %q, %v", k.Warning(), err)
	}
	if err := os.Chmod(path, 0o440); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Reload(); err != nil || k.Warning() != "" {
		t.Errorf("a mounted secret: warning %q, %v", k.Warning(), err)
	}
}

// A new key counts from the next request on, under calls that run.
func TestReloadUnderCalls(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte("key-0"), 0o600); err != nil {
		t.Fatal(err)
	}
	k, err := LoadKeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	server := serveKeys(t)
	c, err := New(Config{BaseURL: server, Key: k, Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdle)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if _, err := c.Cancel(t.Context(), testID); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 20 {
		value := fmt.Sprint("key-", i)
		if err := os.WriteFile(path+".new", []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
}

// serveKeys accepts any key of TestReloadUnderCalls, whole.
func serveKeys(t *testing.T) string {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Header.Get("Authorization"), "key-") {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return c.base
}
