package admin

import (
	"time"

	"github.com/perdure/perdure/store"
)

// A Progress describes the progress of a long operation.
type Progress struct {
	// Phase names the current step, such as "read events".
	Phase string
	// Done and Total count records, or bytes if Bytes is set. Total is -1 if it is unknown.
	Done, Total int64
	Bytes       bool
	// Elapsed is the time of the phase so far.
	Elapsed time.Duration
}

// Rate returns the number of records or bytes per second.
func (p Progress) Rate() float64 {
	if p.Elapsed <= 0 {
		return 0
	}
	return float64(p.Done) / p.Elapsed.Seconds()
}

// Left returns the remaining time of the phase at the rate so far, and false if it is unknown.
func (p Progress) Left() (time.Duration, bool) {
	rate := p.Rate()
	if rate == 0 || p.Total < p.Done {
		return 0, false
	}
	return time.Duration(float64(p.Total-p.Done) / rate * float64(time.Second)), true
}

// progressEvery is the number of records between two progress calls.
const progressEvery = 1024

// A meter counts the records of a phase and calls a progress function from time to time.
type meter struct {
	tell  func(Progress)
	begun time.Time
	p     Progress
}

func newMeter(tell func(Progress), phase string, total int64) *meter {
	return &meter{tell: tell, begun: time.Now(), p: Progress{Phase: phase, Total: total}}
}

func (m *meter) add(n int) {
	before := m.p.Done / progressEvery
	m.p.Done += int64(n)
	if m.p.Done/progressEvery != before {
		m.report()
	}
}

func (m *meter) report() {
	if m.tell != nil {
		m.p.Elapsed = time.Since(m.begun)
		m.tell(m.p)
	}
}

// totalOf returns the number of records of a kind according to the figures, or -1.
func totalOf(s store.RecordKind, stats *store.Stats) int64 {
	switch s {
	case store.KindEvent, store.KindVersion:
		return stats.Events
	case store.KindState:
		return stats.Snapshots
	case store.KindMessage:
		if stats.Pending >= 0 && stats.Parked >= 0 {
			return stats.Pending + stats.Parked
		}
	}
	return -1
}
