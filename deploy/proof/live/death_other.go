//go:build !linux

package live

import "syscall"

func deathSignal() *syscall.SysProcAttr { return nil }
