package store

import "time"

// A Progress says how far long work is.
type Progress struct {
	// Phase is what is being done, such as "read events".
	Phase string
	// Done and Total count records, or bytes where Bytes is set. Total is -1 if
	// it is not known.
	Done, Total int64
	Bytes       bool
	// Elapsed is how long the phase has taken so far.
	Elapsed time.Duration
}

// Rate returns how many records or bytes have been done in a second.
func (p Progress) Rate() float64 {
	if p.Elapsed <= 0 {
		return 0
	}
	return float64(p.Done) / p.Elapsed.Seconds()
}

// Left returns how long the rest of the phase is going to take at the rate so
// far, and false if that cannot be told.
func (p Progress) Left() (time.Duration, bool) {
	rate := p.Rate()
	if rate == 0 || p.Total < p.Done {
		return 0, false
	}
	return time.Duration(float64(p.Total-p.Done) / rate * float64(time.Second)), true
}

// progressEvery is after how many records somebody is told how far it is.
const progressEvery = 1024

// A meter counts the records of a phase and tells somebody from time to time.
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

// totalOf returns how many records of a sort the figures promise, or -1.
func totalOf(s Sort, stats *Stats) int64 {
	switch s {
	case SortEvent, SortVersion:
		return stats.Events
	case SortState:
		return stats.Snapshots
	case SortMessage:
		if stats.Pending >= 0 && stats.Parked >= 0 {
			return stats.Pending + stats.Parked
		}
	}
	return -1
}
