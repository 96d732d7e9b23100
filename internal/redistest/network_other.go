//go:build !linux

package redistest

import (
	"os/exec"
	"testing"
)

// Network and Machine exist on Linux only.
type (
	Network struct{}
	Machine struct{ address string }
)

// HaveNetworks reports whether this process may make networks, which needs Linux.
func HaveNetworks(testing.TB) bool { return false }

func (*Machine) command(name string, args ...string) *exec.Cmd { return exec.Command(name, args...) }

func (*Network) Address(m *Machine) string { return m.address }
