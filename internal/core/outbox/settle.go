package outbox

import (
	"strings"

	"github.com/perdure/perdure/store"
)

// change marks a row whose settlement is to be stored.
func (q *Queue) change(r *Row) {
	if !r.changed {
		r.changed = true
		q.changed = append(q.changed, r)
		q.unsaved++
	}
}

// unchange removes the mark: the row has nothing to store any more.
func (q *Queue) unchange(r *Row) {
	if r.changed {
		r.changed = false
		q.unsaved--
	}
}

// forget drops a row that is in no flow any more, because the store no longer has it or has it
// parked.
func (q *Queue) forget(r *Row) {
	delete(q.rows, r.sequence)
	delete(q.places, r.sequence)
	q.unchange(r)
	if r.halting || r.sort == sortHalted {
		q.halts--
		r.halting = false
	}
	switch {
	case r.Message != nil:
		q.release(r)
	case r.sort != sortHalted:
		q.givePlace(r)
		q.feedClass(r.class)
	}
	if s := &q.scan; s.running {
		if s.gone == nil {
			s.gone = make(map[uint64]struct{})
		}
		s.gone[r.sequence] = struct{}{}
		s.cut = s.cut || len(s.gone) >= q.limits.Window
	}
}

// unparked handles a row that was parked in the store and unparked again, before the store had
// confirmed to the queue that the row was parked.
func (q *Queue) unparked(r *Row) {
	if r.changed {
		q.forget(r) // the settlement seemed to have failed, and is stored
	} else {
		r.again = true
	}
}

// settleBytesMax bounds the payload bytes of one batch of settlements, far below the limit of a
// batch.
const settleBytesMax = 8 << 20

// Settlements returns the settlements to store, at most most of them and not too large for one
// batch. It does not return them a second time. The caller then calls [Queue.Settled] or
// [Queue.Unsettled].
func (q *Queue) Settlements(most int) []store.Settlement {
	var list []store.Settlement
	n, bytes := 0, 0
	for ; n < len(q.changed) && len(list) < most; n++ {
		r := q.changed[n]
		if !r.changed {
			continue
		}
		s := store.Settlement{Sequence: r.sequence}
		if !r.settled || r.Message.Parked {
			s.Message = r.Message
			s.Required, s.Conditional, s.IfOwner = q.shared, q.shared, r.owner
			bytes += len(s.Message.Payload)
		}
		if len(list) > 0 && bytes > settleBytesMax {
			break
		}
		r.changed, r.storing = false, true
		q.unsaved--
		list = append(list, s)
	}
	clear(q.changed[:n])
	if q.changed = q.changed[n:]; len(q.changed) == 0 {
		q.changed = nil
	}
	return list
}

// Unsaved reports whether there are settlements to be stored.
func (q *Queue) Unsaved() bool { return q.unsaved > 0 }

// Unsettled is the input that settlements were not stored, or may not have been stored. They
// are tried again: storing a settlement twice does no harm.
func (q *Queue) Unsettled(list []store.Settlement) {
	for _, s := range list {
		r := q.rows[s.Sequence]
		if r != nil {
			r.storing = false
		}
		switch {
		case r == nil:
		case r.again && r.halting:
			q.reread(r)
		case r.again:
			q.forget(r) // the row that the later commit made pending had been parked
			q.wantSweep()
		case r.Message != nil:
			r.saving = !r.settled && !r.claim && !r.halting
			q.change(r)
		}
	}
}

// Settled is the input that settlements are durable.
func (q *Queue) Settled(list []store.Settlement) {
	for _, s := range list {
		r := q.rows[s.Sequence]
		if r != nil {
			r.storing = false
			if s.Message != nil {
				r.owner, r.ownedAt = s.Message.Owner, q.now
			}
		}
		switch {
		case r == nil:
		case r.halting && r.again:
			q.reread(r)
		case r.halting && !r.changed && s.Message != nil && s.Message.Halted:
			q.storedAsHalted(r)
		case r.claim && !r.settled && !r.changed && s.Message != nil && s.Message.Owner == q.limits.Owner:
			r.claim = false
			if r.flow.first == r && !r.flow.delayed {
				q.head(r.flow)
			}
		case !r.settled || s.Message != nil && !s.Message.Parked:
			if !r.changed { // otherwise it has failed again since
				r.saving = false
				if f := r.flow; f.delayed && f.first == r && q.crowded(f) {
					q.lighten(r)
				}
			}
		default:
			q.forget(r)
			if r.again {
				q.wantSweep()
			}
		}
	}
}

// Refused is the input that the store refused a settlement, because the row is gone, belongs to
// another engine now, or was edited by another engine.
func (q *Queue) Refused(s store.Settlement) {
	r := q.rows[s.Sequence]
	if r == nil {
		return
	}
	r.storing = false
	if r.settled {
		q.forget(r)
		q.wantSweep() // the other engine may stop before it delivers the row
		return
	}
	q.recheck(r)
}

// recheck makes the queue read a row of this engine again before it uses the row.
func (q *Queue) recheck(r *Row) {
	if r.halting {
		r.halting = false
		q.halts--
	}
	r.claim, r.saving = false, false
	if r.changed {
		r.changed = false
		q.unsaved--
	}
	r.stale = true
	if f := r.flow; !r.delivering && f.first == r {
		q.unhold(f)
		q.fetch(r)
	}
}

// wantSweep requests a sweep, after the current scan if one runs.
func (q *Queue) wantSweep() {
	if q.scan.running {
		q.scan.again = true
	} else {
		q.wantsSweep, q.sweptTo = true, 0
	}
}

// errorBytesMax bounds the stored error text of an attempt, in bytes.
const errorBytesMax = 1024

// errorText returns the text of an error in the form in which it is stored: valid UTF-8, and
// cut between characters.
func errorText(err error) string {
	if err == nil {
		return "unknown error"
	}
	s := err.Error()
	if len(s) > errorBytesMax {
		s = s[:errorBytesMax-len("\uFFFD")]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
