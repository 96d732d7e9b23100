package redistest

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
)

// Network is a bridge that this machine and some Machines are connected to.
type Network struct {
	bridge, void string // void is a bridge without an address: what is connected to it reaches nobody
	prefix       string // of the addresses, such as 10.231.7.
	last         int    // address that is in use
}

// Machine is a network namespace. To the servers in it, it looks like a machine of their own.
type Machine struct {
	name    string
	address string // on its first network
	ports   map[*Network]port
}

// port connects a Machine to a Network.
type port struct{ device, address string }

// HaveNetworks reports whether this process may make networks. It must be root, and ip must be installed.
func HaveNetworks(t testing.TB) bool {
	t.Helper()
	name := unique()
	if exec.Command("ip", "netns", "add", name).Run() != nil {
		return false
	}
	ip(t, "netns", "delete", name)
	return true
}

// unique is a name for a device or a namespace, of which a device's may have 15 characters.
func unique() string { return fmt.Sprintf("lc%08x", rand.Uint32()) }

func ip(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// NewNetwork makes a network for the length of the test.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	n := &Network{bridge: unique(), void: unique(), prefix: fmt.Sprintf("10.%d.%d.", 200+rand.N(50), rand.N(256)), last: 1}
	for _, name := range []string{n.bridge, n.void} {
		ip(t, "link", "add", name, "type", "bridge")
		t.Cleanup(func() { ip(t, "link", "delete", name) })
		ip(t, "link", "set", name, "up")
	}
	ip(t, "address", "add", n.prefix+"1/24", "dev", n.bridge)
	return n
}

// NewMachine makes a machine on networks for the length of the test.
func NewMachine(t testing.TB, networks ...*Network) *Machine {
	t.Helper()
	m := &Machine{name: unique(), ports: map[*Network]port{}}
	ip(t, "netns", "add", m.name)
	t.Cleanup(func() { ip(t, "netns", "delete", m.name) })
	ip(t, "-n", m.name, "link", "set", "lo", "up")
	for i, n := range networks {
		n.last++
		p := port{device: unique(), address: n.prefix + fmt.Sprint(n.last)}
		m.ports[n] = p
		if i == 0 {
			m.address = p.address
		}
		inside := fmt.Sprint("eth", i)
		ip(t, "link", "add", p.device, "type", "veth", "peer", "name", inside, "netns", m.name)
		ip(t, "-n", m.name, "address", "add", p.address+"/24", "dev", inside)
		ip(t, "-n", m.name, "link", "set", inside, "up")
		ip(t, "link", "set", p.device, "master", n.bridge, "up")
	}
	return m
}

// command makes a command that runs on the machine, or on this one if m is nil.
func (m *Machine) command(name string, args ...string) *exec.Cmd {
	if m == nil {
		return exec.Command(name, args...)
	}
	return exec.Command("ip", append([]string{"netns", "exec", m.name, name}, args...)...)
}

// Address returns the address of a machine on a network.
func (n *Network) Address(m *Machine) string { return m.ports[n].address }

// Cut drops all packets between a machine and the others on this network, this machine included.
func (n *Network) Cut(t testing.TB, m *Machine) {
	t.Helper()
	ip(t, "link", "set", m.ports[n].device, "master", n.void)
}

// Part drops all packets between some machines. This machine reaches them as before.
func (n *Network) Part(t testing.TB, machines ...*Machine) {
	t.Helper()
	for _, m := range machines {
		ip(t, "link", "set", "dev", m.ports[n].device, "type", "bridge_slave", "isolated", "on")
	}
}

// Heal ends Cut and Part of a machine.
func (n *Network) Heal(t testing.TB, m *Machine) {
	t.Helper()
	ip(t, "link", "set", m.ports[n].device, "master", n.bridge)
	ip(t, "link", "set", "dev", m.ports[n].device, "type", "bridge_slave", "isolated", "off")
}
