package outbox

import (
	"errors"
	"slices"
	"time"

	"github.com/perdure/perdure/store"
)

// Bounds limit the work of a [Dispatcher].
type Bounds struct {
	// Deliveries is the maximum number of deliveries that begin in one step. Fetches is the
	// maximum number of messages that one step reads again.
	Deliveries, Fetches int
	// Settlements is the maximum number of settlements in one batch.
	Settlements int
	// Pause is the time for which no settlements are stored after a failed group.
	Pause time.Duration
	// Look is the longest time to the next alarm. It is bounded because the time of day may
	// step, and the machine may sleep.
	Look time.Duration
}

// Work is the work that a step gives to the shell. The step does not wait for it.
type Work struct {
	// Deliver holds the rows to deliver. Each delivery ends with [Dispatcher.Finished].
	Deliver []*Row
	// Settle holds settlements to be stored as one batch. It ends with
	// [Dispatcher.Stored].
	Settle []store.Settlement
	// Fetch holds messages to be read again, each with [Queue.Fetched]. It ends
	// with [Dispatcher.FetchEnded].
	Fetch []*Row
	// Scan describes the messages to read from the store, if Scans is true. The read ends with
	// [Dispatcher.ScanEnded].
	Scan  Scan
	Scans bool
	// Alarm is the time of the next step, if Alarms is not zero. It replaces an earlier alarm.
	// At that time the shell calls [Dispatcher.Rang] with Alarms.
	Alarm  time.Time
	Alarms uint64
	// Again is true if there may be more work at once.
	Again bool
}

// A Dispatcher is a [Queue] with the schedule around it: how much one step does, which
// settlements are at the store, when the next step is due, and how the engine closes. Like the
// queue it is a state machine for one goroutine at a time. It has no clock and calls only its
// [Shell].
//
//  1. At most one batch of settlements is at the store at a time.
//  2. If there is work at a later time, an alarm is set to that time or to an earlier one. An
//     alarm that rings too early does no harm.
//  3. After Close no delivery of a stored message begins. The dispatcher is drained when all
//     deliveries and reads have ended. It is flushed when no settlement is left, or the store
//     does not accept the rest.
type Dispatcher struct {
	*Queue
	bounds Bounds

	settling []store.Settlement // settlements at the store
	pause    time.Time          // earliest time of the next settlements
	single   int                // number of settlements that are stored one by one
	running  int                // number of deliveries, scans and other reads in progress
	alarm    time.Time          // time of the alarm, if it is set
	isSet    bool
	alarms   uint64 // number of the latest alarm
	spared   int    // number of deliveries that Close does not wait for, because they wait for Close
	sent     bool   // these deliveries are of sent effects
}

// NewDispatcher returns a dispatcher whose queue begins with a scan of the store.
func NewDispatcher(shell Shell, limits Limits, bounds Bounds) *Dispatcher {
	return &Dispatcher{Queue: New(shell, limits), bounds: bounds}
}

// Step returns the work to do now. The parameter wall is the time of day, see [Queue.Clock].
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

// settlements returns the settlements to store, if none are at the store.
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

// arm sets the alarm for later work, if it has to ring earlier than it does now.
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

// Rang is the input that an alarm has rung. It returns the time to which the alarm was set, and
// false if another alarm has replaced it.
func (d *Dispatcher) Rang(n uint64) (at time.Time, ok bool) {
	if n != d.alarms {
		return time.Time{}, false
	}
	d.isSet = false
	return d.alarm, true
}

// Stored is the input that the store has answered for the settlements. The parameter group is
// the error of the whole group of batches, refused the error of the settlements' own batch.
func (d *Dispatcher) Stored(group, refused error, now time.Time) {
	list := d.settling
	d.settling = nil
	switch {
	case group == nil && refused == nil:
		d.Settled(list)
		d.single -= min(d.single, len(list))
	case group == nil && d.refused(list, refused):
	case group == nil && len(list) == 1:
		// The store refuses this settlement: its row is damaged. The row stays in the store;
		// the others must not wait for it.
		d.Settled(list)
		d.single -= min(d.single, 1)
	case group == nil:
		d.Unsettled(list)
		d.single = len(list) // find the refused one
	default:
		d.Unsettled(list)
		d.pause = now.Add(d.bounds.Pause)
	}
}

// refused handles settlements that are not stored because one of their rows is gone or belongs
// to another engine. It returns false if the store refused them for another reason.
func (d *Dispatcher) refused(list []store.Settlement, err error) bool {
	var gone *store.MessageGoneError
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

// Rests reports whether there is no work at the present time.
func (d *Dispatcher) Rests(now time.Time) bool {
	if d.running > 0 || d.settling != nil || d.Unsaved() && !now.Before(d.pause) {
		return false
	}
	at, ok := d.Wake()
	return !ok || at.After(now) || d.closed
}

// Close is the input that no delivery of a stored message is to begin. If within is true, a
// delivery in progress waits for the dispatcher to end, so the dispatcher does not wait for
// that delivery. If sent is true, it is the delivery of a sent effect.
func (d *Dispatcher) Close(within, sent bool) {
	d.Queue.Close()
	if within {
		d.spared, d.sent = 1, sent
	}
}

// Closing reports whether Close has been called.
func (d *Dispatcher) Closing() bool { return d.closed }

// Drained reports whether all deliveries and reads have ended.
func (d *Dispatcher) Drained() bool {
	return d.running <= d.spared && d.Queue.Drained(d.spared, d.sent)
}

// Flush makes the next step store the remaining settlements at once. The caller calls it when
// the dispatcher is drained.
func (d *Dispatcher) Flush() { d.pause = time.Time{} }

// Flushed reports, after [Dispatcher.Flush], whether no settlement is left, or the store has
// not accepted the rest.
func (d *Dispatcher) Flushed() bool {
	return d.settling == nil && (!d.Unsaved() || !d.pause.IsZero())
}

// Claim sets the owner of messages that are going to be stored: this engine, or any engine if
// this one has no rule for them. Several goroutines may call it, at the same time as other
// methods.
func (d *Dispatcher) Claim(messages []store.Message) {
	if !d.shared {
		return
	}
	for i := range messages {
		m := &messages[i]
		if m.Open = d.filter != nil && !d.filter.Fits(m); !m.Open {
			m.Owner = d.limits.Owner
		}
	}
}

// Unpark changes a parked message so that it is delivered again, and returns the settlement
// that stores the change. The caller then calls [Queue.Unparked]. Several goroutines may call
// Unpark, like [Dispatcher.Claim].
func (d *Dispatcher) Unpark(m *store.Message) store.Settlement {
	s := EndParked(m)
	m.Parked, m.Halted, m.Attempts, m.LastError, m.Owner, m.Open = false, false, 0, "", 0, false
	list := [1]store.Message{*m}
	d.Claim(list[:])
	m.Owner, m.Open = list[0].Owner, list[0].Open
	s.Message = m
	return s
}

// EndParked returns the settlement that removes a parked message permanently. The store refuses
// it if the message is no longer parked, because another operator or engine was faster.
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
