//go:build unix

package plexy

import (
	"net"
	"syscall"
	"testing"
	"time"
)

// A process without a descriptor left blames nobody else, whether it looks up a name first or not.
func TestOutOfDescriptors(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 0 // what is open stays open
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	}()
	for _, base := range []string{"http://" + listener.Addr().String(), "https://api.plexypay.invalid/v1"} {
		c := newTestClient(t, base, 30*time.Second)
		c.lanes.dial = (&net.Dialer{Resolver: &net.Resolver{PreferGo: true}}).DialContext
		_, err := c.Cancel(t.Context(), testID)
		if e := transportError(t, err); !e.Local || e.Sent {
			t.Errorf("%s: %v", base, err)
		}
	}
	// What the system's resolver says then.
	if err := (&net.DNSError{Err: "no such host", Name: "api.plexypay.invalid", IsNotFound: true}); !isLocal(err) {
		t.Errorf("%v is not local", err)
	}
}
