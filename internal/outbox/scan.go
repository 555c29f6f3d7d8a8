package outbox

import (
	"time"

	"github.com/perdure/perdure/store"
)

// WantsScan reports whether the messages that are due are to be read from the
// store, from the first one, into [Queue.Scanned].
func (q *Queue) WantsScan(now time.Time) bool {
	if q.scanning || q.closed {
		return false
	}
	if !q.due.IsZero() && !q.due.After(now) {
		q.behind, q.due = true, time.Time{}
	}
	q.oldest = now.Add(-q.limits.RescueAfter)
	rescue := q.limits.RescueEvery > 0 && !now.Before(q.rescueAt)
	return (q.behind || rescue) && q.roomy() && !now.Before(q.scanAt)
}

// ScanBegins is the input that a scan begins now, since the queue wants it.
func (q *Queue) ScanBegins() {
	q.rescue = !q.behind
	q.scanning, q.behind, q.missed = true, false, false
	q.due = time.Time{}
	if q.rescue {
		return
	}
	for _, l := range q.lanes {
		l.behind = false
	}
}

// abandoned reports whether nobody has ended a message for so long that its
// engine has died, or is so late that it does not matter who delivers.
func (q *Queue) abandoned(m *store.Message) bool {
	return m.Time.Before(q.oldest) && m.Due.Before(q.oldest)
}

// Scanned is the input of a message that a scan has read. It returns false if
// the scan need not go on: the queue is behind, and what follows must not
// overtake what it has left out.
func (q *Queue) Scanned(m *store.Message) bool {
	if q.rescue {
		if q.abandoned(m) {
			q.admit(m)
		}
		return !q.behind
	}
	if m.Due.IsZero() {
		q.scanned = max(q.scanned, m.Sequence)
	}
	if !q.behind {
		q.admit(m)
	}
	return !q.behind
}

// ScanEnded is the input that the scan is over. Due is when the first message
// is due that was not due yet, or zero. A scan that failed is to be made again
// after a pause.
func (q *Queue) ScanEnded(due time.Time, failed bool, now time.Time) {
	q.scanning = false
	if q.limits.RescueEvery > 0 {
		q.rescueAt = now.Add(q.shell.Jitter(q.limits.RescueEvery))
	}
	if failed {
		q.scanAt = now.Add(scanPause)
	}
	if !due.IsZero() {
		q.dueAt(due)
	}
	late := q.late
	q.late = nil
	if failed || q.missed {
		q.behind = true
	}
	if !q.behind {
		for _, m := range late {
			q.admit(m)
		}
	}
	q.gone = nil
}

// scanPause is how long to wait after a scan has failed.
const scanPause = time.Second
