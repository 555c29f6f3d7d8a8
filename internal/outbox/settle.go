package outbox

import "github.com/perdure/perdure/store"

// change marks a row whose settlement is to be stored.
func (q *Queue) change(r *Row) {
	if !r.changed {
		r.changed = true
		q.changed = append(q.changed, r)
		q.unsaved++
	}
}

// forget lets go of a row that the store has no more, or has parked.
func (q *Queue) forget(r *Row) {
	delete(q.rows, r.Message.Sequence)
	if r.changed {
		r.changed = false
		q.unsaved--
	}
	if !q.scanning {
		return
	}
	if q.gone == nil {
		q.gone = make(map[uint64]struct{})
	}
	q.gone[r.Message.Sequence] = struct{}{}
	q.behind = q.behind || len(q.gone) >= q.limits.Window
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
		s := store.Settlement{Sequence: r.Message.Sequence}
		if !r.settled || r.Message.Parked {
			s.Message = r.Message
			bytes += len(s.Message.Payload)
		}
		if len(list) > 0 && bytes > settleBytesMax {
			break
		}
		r.changed = false
		q.unsaved--
		list = append(list, s)
	}
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
		switch {
		case r == nil:
		case r.again:
			q.forget(r) // what is committed anew was parked
			q.behind = true
		default:
			q.change(r)
		}
	}
}

// Settled is the input that settlements are durable.
func (q *Queue) Settled(list []store.Settlement) {
	for _, s := range list {
		r := q.rows[s.Sequence]
		if r == nil || !r.settled || s.Message != nil && !s.Message.Parked {
			continue // it has gone on since
		}
		q.forget(r)
		q.behind = q.behind || r.again
	}
}

// errorBytesMax bounds what is kept of the error of an attempt.
const errorBytesMax = 1024

func errorText(err error) string {
	if err == nil {
		return "unknown error"
	}
	s := []rune(err.Error()) // so that it is valid UTF-8 and is cut between characters
	for len(string(s)) > errorBytesMax {
		s = s[:len(s)*3/4]
	}
	return string(s)
}
