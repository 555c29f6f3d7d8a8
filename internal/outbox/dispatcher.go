package outbox

import (
	"errors"
	"slices"
	"time"

	"github.com/perdure/perdure/store"
)

// Bounds bound what a [Dispatcher] does.
type Bounds struct {
	// Deliveries is how many deliveries begin in one step, and Fetches how many
	// messages are read again.
	Deliveries, Fetches int
	// Settlements is how many settlements are in one batch.
	Settlements int
	// Pause is how long no settlements are stored after a group that has failed.
	Pause time.Duration
	// Look is how far ahead the alarm is set at most: the time of day may step, and
	// the machine may sleep.
	Look time.Duration
}

// Work is what the shell has to do after a step, without the step having waited for it.
type Work struct {
	// Deliver holds deliveries that begin. Each ends with [Dispatcher.Finished].
	Deliver []*Row
	// Settle holds settlements to be stored as one batch. It ends with
	// [Dispatcher.Stored].
	Settle []store.Settlement
	// Fetch holds messages to be read again, each with [Queue.Fetched]. It ends
	// with [Dispatcher.FetchEnded].
	Fetch []*Row
	// Scan is what is to be read from the store, if Scans is true. It ends with
	// [Dispatcher.ScanEnded].
	Scan  Scan
	Scans bool
	// Alarm is the time of the next step, in place of that of an earlier alarm, if
	// Alarms is not zero. When it comes, the shell calls [Dispatcher.Rang] with Alarms.
	Alarm  time.Time
	Alarms uint64
	// Again says that there may be more to do at once.
	Again bool
}

// A Dispatcher is a [Queue] with what is done around it: how much is done in one step,
// which settlements are on their way to the store, when the next step is, and how
// the engine closes. Like the queue it is a state machine for one goroutine at a
// time, without a clock, which calls nothing but its [Shell].
//
//  1. At most one batch of settlements is on its way.
//  2. If anything is to be done at a later time, an alarm is set to that time or to
//     an earlier one. An alarm that rings too early does no harm.
//  3. Once it is closing, no delivery of a stored message begins. It is drained
//     when all deliveries and reads have ended, and flushed when nothing is left
//     to settle or the store does not take it.
type Dispatcher struct {
	*Queue
	bounds Bounds

	settling []store.Settlement // on their way to the store
	pause    time.Time          // no settlements before
	single   int                // settlements that are tried one by one
	running  int                // deliveries, scans and other reads under way
	alarm    time.Time          // when the alarm rings, if it is set
	isSet    bool
	alarms   uint64 // counts the alarms
	spared   int    // deliveries that the end does not wait for, because they wait for it
	sent     bool   // and that are of sent effects
}

// NewDispatcher returns a dispatcher whose queue begins with a scan of the store.
func NewDispatcher(shell Shell, limits Limits, bounds Bounds) *Dispatcher {
	return &Dispatcher{Queue: New(shell, limits), bounds: bounds}
}

// Step decides what is to be done now. The time of day is wall, see [Queue.Clock].
func (d *Dispatcher) Step(wall, now time.Time) Work {
	var w Work
	d.Clock(wall, now)
	for len(w.Deliver) < d.bounds.Deliveries {
		r := d.Next(now)
		if r == nil {
			break
		}
		w.Deliver = append(w.Deliver, r)
	}
	w.Again = len(w.Deliver) == d.bounds.Deliveries
	d.running += len(w.Deliver)
	w.Settle = d.settlements(now)
	if w.Fetch = d.Fetches(d.bounds.Fetches); w.Fetch != nil {
		d.running++
	}
	if w.Scans = d.WantsScan(now); w.Scans {
		w.Scan = d.ScanBegins()
		d.running++
	}
	w.Alarm, w.Alarms = d.arm(now)
	return w
}

// settlements returns what is to be settled, if nothing is on its way.
func (d *Dispatcher) settlements(now time.Time) []store.Settlement {
	if d.settling != nil || now.Before(d.pause) {
		return nil
	}
	most := d.bounds.Settlements
	if d.single > 0 {
		most = 1
	}
	if list := d.Settlements(most); len(list) > 0 {
		d.settling = list
	}
	return d.settling
}

// arm sets the alarm for what is to be done later, if it has to ring earlier than it does.
func (d *Dispatcher) arm(now time.Time) (at time.Time, n uint64) {
	at, ok := d.Wake()
	if d.pause.After(now) && (!ok || d.pause.Before(at)) {
		at, ok = d.pause, true
	}
	if !ok || d.closed {
		return time.Time{}, 0
	}
	if look := now.Add(d.bounds.Look); look.Before(at) {
		at = look
	}
	if d.isSet && !at.Before(d.alarm) {
		return time.Time{}, 0
	}
	d.alarm, d.isSet = at, true
	d.alarms++
	return at, d.alarms
}

// Rang is the input that an alarm has rung. It returns the time to which it was set,
// and false if another alarm has taken its place.
func (d *Dispatcher) Rang(n uint64) (at time.Time, ok bool) {
	if n != d.alarms {
		return time.Time{}, false
	}
	d.isSet = false
	return d.alarm, true
}

// Stored is the input that the settlements on their way have been stored, or have
// not: group is the error of the whole group of batches, refused that of their batch.
func (d *Dispatcher) Stored(group, refused error, now time.Time) {
	list := d.settling
	d.settling = nil
	switch {
	case group == nil && refused == nil:
		d.Settled(list)
		d.single -= min(d.single, len(list))
	case group == nil && d.refused(list, refused):
	case group == nil && len(list) == 1:
		// The store refuses this one, which is damaged. It stays there; the
		// others must not wait for it.
		d.Settled(list)
		d.single -= min(d.single, 1)
	case group == nil:
		d.Unsettled(list)
		d.single = len(list) // find out which one it is
	default:
		d.Unsettled(list)
		d.pause = now.Add(d.bounds.Pause)
	}
}

// refused deals with settlements that are not stored because one of them is of a row
// that is gone or another engine's. It returns false if they are refused for another reason.
func (d *Dispatcher) refused(list []store.Settlement, err error) bool {
	var gone *store.SettledError
	if !errors.As(err, &gone) {
		return false
	}
	at := slices.IndexFunc(list, func(s store.Settlement) bool { return s.Sequence == gone.Sequence && s.Conditional })
	if at < 0 {
		return false
	}
	d.Refused(list[at])
	d.Unsettled(slices.Delete(slices.Clone(list), at, at+1))
	d.single -= min(d.single, 1)
	return true
}

// Finished is the input that a delivery has ended, see [Queue.Finished].
func (d *Dispatcher) Finished(r *Row, result Result, cause error, now time.Time) {
	d.Queue.Finished(r, result, cause, now)
	d.running--
}

// ScanEnded is the input that a scan has ended, see [Queue.ScanEnded].
func (d *Dispatcher) ScanEnded(due time.Time, failed bool, now time.Time) {
	d.Queue.ScanEnded(due, failed, now)
	d.running--
}

// FetchEnded is the input that all messages of a step have been read again.
func (d *Dispatcher) FetchEnded() { d.running-- }

// Rests reports whether there is nothing to do at the present time.
func (d *Dispatcher) Rests(now time.Time) bool {
	if d.running > 0 || d.settling != nil || d.Unsaved() && !now.Before(d.pause) {
		return false
	}
	at, ok := d.Wake()
	return !ok || at.After(now) || d.closed
}

// Close is the input that no delivery of a stored message is to begin. If within is
// true, a delivery that is under way waits for the end, so that the end does not
// wait for it; sent says that it is one of a sent effect.
func (d *Dispatcher) Close(within, sent bool) {
	d.Queue.Close()
	if within {
		d.spared, d.sent = 1, sent
	}
}

// Closing reports whether it has been closed.
func (d *Dispatcher) Closing() bool { return d.closed }

// Drained reports whether all deliveries and reads have ended.
func (d *Dispatcher) Drained() bool {
	return d.running <= d.spared && d.Queue.Drained(d.spared, d.sent)
}

// Flush has what is left to settle stored at once. It is called when it is drained.
func (d *Dispatcher) Flush() { d.pause = time.Time{} }

// Flushed reports, after [Dispatcher.Flush], whether nothing is left to settle or the
// store has not taken it.
func (d *Dispatcher) Flushed() bool {
	return d.settling == nil && (!d.Unsaved() || !d.pause.IsZero())
}

// Claim notes in messages that are going to be stored that this engine delivers them,
// or that any other may, because this one has no rule for them. It may be called by
// several goroutines, and at the same time as other methods.
func (d *Dispatcher) Claim(messages []store.Message) {
	if !d.shared {
		return
	}
	for i := range messages {
		m := &messages[i]
		if m.Open = d.judge != nil && !d.judge.Fits(m); !m.Open {
			m.Owner = d.limits.Owner
		}
	}
}

// Unpark changes a parked message so that it is delivered again, and returns the
// settlement that stores it. [Queue.Unparked] follows. It may be called by several
// goroutines, like [Dispatcher.Claim].
func (d *Dispatcher) Unpark(m *store.Message) store.Settlement {
	s := EndParked(m)
	m.Parked, m.Halted, m.Attempts, m.LastError, m.Owner, m.Open = false, false, 0, "", 0, false
	list := [1]store.Message{*m}
	d.Claim(list[:])
	m.Owner, m.Open = list[0].Owner, list[0].Open
	s.Message = m
	return s
}

// EndParked returns the settlement that ends a parked message for good. It is refused if
// the message is no longer parked: another operator or engine was faster.
func EndParked(m *store.Message) store.Settlement {
	return store.Settlement{Sequence: m.Sequence, Required: true, Conditional: true, IfOwner: m.Owner, IfParked: true}
}

// Committed returns the messages of a batch as the store has stored them.
func Committed(b *store.Batch, r *store.Result) []*store.Message {
	messages := make([]*store.Message, len(b.Enqueue))
	for i := range b.Enqueue {
		m := b.Enqueue[i]
		m.Source, m.Time = b.Key, r.Time
		m.Sequence = r.Sequence - uint64(len(b.Enqueue)-1-i)
		messages[i] = &m
	}
	return messages
}
