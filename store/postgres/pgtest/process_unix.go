//go:build unix

package pgtest

import "syscall"

// attributes makes a process run as a, or as the account of the tests if a is nil. The process gets
// a session of its own, so that an interrupt from the terminal does not reach it before the tests
// have ended.
func attributes(a *account) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if a != nil {
		attr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	return attr
}
