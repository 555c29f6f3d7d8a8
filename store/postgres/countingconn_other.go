//go:build !linux

package postgres

import (
	"net"
	"time"
)

// setUnackedMax does nothing, because only Linux has a limit per connection for data that
// is not acknowledged. On other systems the kernel's general limit applies, and the probe
// of a silent session, see watchdog.
func setUnackedMax(*net.TCPConn, time.Duration) error { return nil }
