package crashtest

import (
	"os/exec"
	"syscall"
)

// endWithParent makes the kernel kill a child when the thread that started it dies, even
// while the child is stopped. A janitor (outlive) gets a session of its own instead, so
// that it survives, signals to the process group included.
func endWithParent(cmd *exec.Cmd, outlive bool) {
	if outlive {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	} else {
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	}
}

func killed(e *exec.ExitError) bool {
	s, ok := e.Sys().(syscall.WaitStatus)
	return ok && s.Signaled() && s.Signal() == syscall.SIGKILL
}
