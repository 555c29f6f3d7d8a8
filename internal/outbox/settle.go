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

// unchange takes a mark back: there is nothing of the row to be stored any more.
func (q *Queue) unchange(r *Row) {
	if r.changed {
		r.changed = false
		q.unsaved--
	}
}

// forget lets go of a row that the store has no more, or has parked, and that is
// in no lane any more.
func (q *Queue) forget(r *Row) {
	delete(q.rows, r.sequence)
	delete(q.places, r.sequence)
	q.unchange(r)
	if r.halting || r.sort == halted {
		q.halts--
		r.halting = false
	}
	switch {
	case r.Message != nil:
		q.release(r)
	case r.sort != halted:
		q.givesPlace(r)
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

// unparked deals with a row that is parked in the store, and no longer, before
// the queue has heard that it ever was.
func (q *Queue) unparked(r *Row) {
	if r.changed {
		q.forget(r) // the settlement seemed to have failed, and is stored
	} else {
		r.again = true
	}
}

// settleBytesMax bounds the payloads of what is stored at a time, far below what
// a batch may hold.
const settleBytesMax = 8 << 20

// Settlements returns what is to be stored, at most so many and not too large
// for a batch. Nothing of it is returned again. [Queue.Settled] or
// [Queue.Unsettled] follows.
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

// Unsettled is the input that settlements could not be stored, or may not be.
// They are tried again: to settle twice does no harm.
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
			q.forget(r) // what is committed anew was parked
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
				r.owner, r.fresh = s.Message.Owner, q.now
			}
		}
		switch {
		case r == nil:
		case r.halting && r.again:
			q.reread(r)
		case r.halting && !r.changed && s.Message != nil && s.Message.Halted:
			q.rest(r)
		case r.claim && !r.settled && !r.changed && s.Message != nil && s.Message.Owner == q.limits.Owner:
			r.claim = false
			if r.lane.first == r && !r.lane.delayed {
				q.head(r.lane)
			}
		case !r.settled || s.Message != nil && !s.Message.Parked:
			if !r.changed { // else it has failed again since
				r.saving = false
				if l := r.lane; l.delayed && l.first == r && q.crowded(l) {
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

// Refused is the input that a settlement is not stored because the row is gone, or
// another engine's by now, or was edited by one.
func (q *Queue) Refused(s store.Settlement) {
	r := q.rows[s.Sequence]
	if r == nil {
		return
	}
	r.storing = false
	if r.settled {
		q.forget(r)
		q.wantSweep() // the other engine may come to an end
		return
	}
	q.doubt(r)
}

// doubt has a row of this engine read again before it is used.
func (q *Queue) doubt(r *Row) {
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
	if l := r.lane; !r.flying && l.first == r {
		q.unhold(l)
		q.fetch(r)
	}
}

// wantSweep asks for a sweep, after the scan that runs if one does.
func (q *Queue) wantSweep() {
	if q.scan.running {
		q.scan.again = true
	} else {
		q.full, q.sweptTo = true, 0
	}
}

// errorBytesMax bounds what is kept of the error of an attempt.
const errorBytesMax = 1024

// errorText returns the text of an error as it is stored: valid UTF-8, and cut
// between characters.
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
