//go:build !linux

package postgres

import (
	"net"
	"time"
)

// setUnackedMax does nothing: only Linux has a bound of its own for data that is not
// acknowledged. Elsewhere the kernel's for all connections holds, and the probe of a
// session that is silent, see attendance.
func setUnackedMax(*net.TCPConn, time.Duration) error { return nil }
