//go:build !unix

package pgtest

import "syscall"

// attributes returns nil: the process runs as the account of the tests, with the defaults of the
// operating system.
func attributes(*account) *syscall.SysProcAttr { return nil }
