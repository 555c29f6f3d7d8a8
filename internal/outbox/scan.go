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
	return q.behind && q.roomy() && !now.Before(q.scanAt)
}

// ScanBegins is the input that a scan begins now.
func (q *Queue) ScanBegins() {
	q.scanning, q.behind, q.missed = true, false, false
	q.due = time.Time{}
	for _, l := range q.lanes {
		l.behind = false
	}
}

// Scanned is the input of a message that a scan has read. It returns false if
// the scan need not go on: the queue is behind, and what follows must not
// overtake what it has left out.
func (q *Queue) Scanned(m *store.Message) bool {
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
