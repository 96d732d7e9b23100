package plexy

import (
	"errors"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// localErrors are the system's errors for no more file descriptors, ports or memory.
func localErrors() []syscall.Errno {
	if runtime.GOOS == "windows" {
		// ERROR_NOT_ENOUGH_MEMORY, WSAEMFILE, WSAEADDRNOTAVAIL, WSAENOBUFS.
		return []syscall.Errno{8, 10024, 10049, 10055}
	}
	return []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM}
}

// isLocal reports whether err of an unsent request is a shortage of this machine.
func isLocal(err error) bool {
	isLack := func(err error) bool {
		return slices.ContainsFunc(localErrors(), func(errno syscall.Errno) bool { return errors.Is(err, errno) })
	}
	var lookup *net.DNSError
	if !errors.As(err, &lookup) {
		return isLack(err)
	}
	// Resolvers keep only the text of the cause, or report every host as unknown.
	if slices.ContainsFunc(localErrors(), func(errno syscall.Errno) bool { return strings.HasSuffix(lookup.Err, errno.Error()) }) {
		return true
	}
	file, err := os.Open(os.DevNull)
	if err != nil {
		return isLack(err)
	}
	_ = file.Close()
	return false
}
