package projector

import (
	"math"
	"time"
)

// The faults that Break makes.
const (
	// ForgetUnknown continues after an unknown outcome as if nothing were stored.
	ForgetUnknown = "unknown is taken for not stored"
	// ForgetFiltered never stores a position that moves only over unwanted events.
	ForgetFiltered = "a position over nothing is not noted"
	// ForgetWindow keeps a window that does not begin at the position of the note.
	ForgetWindow = "the window does not begin where the note is"
)

// Break damages the segment as if a part of its code were missing.
func (l *Segment) Break(fault string) {
	switch fault {
	case ForgetUnknown:
		if l.loaded && !l.foreign {
			l.stale = false
		}
	case ForgetFiltered:
		l.limits.FlushEvents, l.limits.FlushAfter = math.MaxUint64, math.MaxInt64
		l.idleSince = time.Unix(1<<40, 0)
	case ForgetWindow:
		l.seek = false
		if l.loaded && len(l.window) == 0 {
			l.covered = max(l.covered, l.through)
		}
	}
}
