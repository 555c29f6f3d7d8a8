// Package outbox holds the protocol core that delivers what commands have left
// to be done after their commits: outbox messages, timers and effects.
package outbox

import (
	"container/heap"
	"time"

	"github.com/perdure/perdure/internal/canary"
	"github.com/perdure/perdure/store"
)

// Limits bound a queue.
type Limits struct {
	// Window is how many messages are in memory, LaneMax how many of one lane.
	// What is more waits in the store. Messages that wait for another attempt,
	// or stand behind one that does, do not count before they are a few windows,
	// so that a handler that is broken does not hold up the others.
	Window, LaneMax int
	// InFlight is how many deliveries are under way at a time.
	InFlight int
	// Late is how many messages are remembered that are committed while the
	// store is scanned.
	Late int
	// RescueEvery is how often the store is scanned, besides, for messages that
	// nobody has ended for RescueAfter: those of an engine that has died. Zero
	// is never, for a store that nobody else uses.
	RescueEvery, RescueAfter time.Duration
}

// A Policy says how often and when the delivery of a message is tried again.
type Policy struct {
	// AttemptsMax and AgeMax end the attempts; then the message is parked.
	AttemptsMax uint32
	AgeMax      time.Duration
	// BackoffMin is the pause after the first failure. Each further one doubles
	// it, up to BackoffMax.
	BackoffMin, BackoffMax time.Duration
}

// A Shell is the world around the queue.
type Shell interface {
	// Policy returns the policy for a message.
	Policy(*store.Message) Policy
	// Jitter returns a random part of d, at least half of it.
	Jitter(d time.Duration) time.Duration
}

// A Result says what came of a delivery.
type Result uint8

// The results of a delivery.
const (
	// Done: it was handled; the row is to be removed from the store.
	Done Result = iota
	// Gone: it was handled, and the row is removed already.
	Gone
	// Later: it could not be tried; that is no attempt.
	Later
	// Retry: it failed.
	Retry
	// Never: it failed, and no further attempt would help.
	Never
)

// A Row is a message on its way. Volatile rows, with sequence 0, are effects
// that are tried once and are not in the store.
type Row struct {
	Message *store.Message
	// Value is the decoded message of a volatile row.
	Value any

	lane    *lane
	settled bool   // it is handled or parked, and waits for that to be durable
	changed bool   // it has a settlement that is not on its way
	again   bool   // it was parked, and has been committed anew since
	later   uint32 // times that it could not be tried
	next    *Row
}

// A Queue is the state machine of the dispatcher.
//
//  1. rows holds every message of the store that is in memory, by sequence,
//     from when it is admitted until its settlement is durable or it is known to
//     be gone, so that a scan of the store never admits it twice.
//  2. The rows of a lane are in the order of their sequences, but for timers, which
//     come when they are due, and for what has been unparked; and at most the
//     first one is in flight.
//  3. While a lane or the queue is behind, messages are not admitted but left to
//     the next scan, so that none overtakes one that is only in the store. A scan
//     during which the queue falls behind ends there.
//  4. While a scan runs, what is committed is put aside, and admitted after it;
//     what is settled is remembered until it ends, because the scan may have
//     read it before. A scan during which that becomes too much ends there.
//  5. waiting is the sum of the lengths of the delayed lanes.
//  6. A rescue is a scan that takes only what is old. It leaves out messages, so
//     it changes nothing of what the queue knows of the store: which lanes are
//     behind, and up to where everything has been met.
//  7. changed holds the rows whose settlement is to be stored, once each: only
//     the latest of several counts. Rows that are forgotten stay in it, not
//     marked any more; unsaved is how many are.
//
// It is for one goroutine at a time; it neither waits nor calls anybody but its
// Shell.
type Queue struct {
	shell  Shell
	limits Limits

	rows     map[uint64]*Row
	lanes    map[laneKey]*lane
	ready    fifo
	delayed  laneHeap
	flight   int
	waiting  int // rows in delayed lanes
	volatile int // volatile rows in memory

	closed   bool // only effects are still delivered
	behind   bool // a scan is needed
	scanning bool
	scanAt   time.Time // not before, after a scan has failed
	rescueAt time.Time // when the next rescue is due
	rescue   bool      // the scan is one
	oldest   time.Time // what is newer is left alone by a rescue
	scanned  uint64    // the highest sequence of a message without a due time that a scan has read
	late     []*store.Message
	missed   bool // something committed during the scan was not put aside
	gone     map[uint64]struct{}
	due      time.Time // of the first message that is not due yet; zero if there is none
	changed  []*Row
	unsaved  int
}

// New returns a queue that begins with a scan of the store.
func New(shell Shell, limits Limits) *Queue {
	return &Queue{
		shell: shell, limits: limits, behind: true,
		rows: make(map[uint64]*Row), lanes: make(map[laneKey]*lane),
	}
}

// Committed is the input that new messages are durable in the store. They are the
// queue's afterwards. One that a scan has read before its commit was told of is
// known already, or has been handled: sequences are in the order of commits, so
// a scan that has read one has met all before it.
func (q *Queue) Committed(messages []*store.Message, now time.Time) {
	for _, m := range messages {
		if m.Due.IsZero() && m.Sequence <= q.scanned {
			continue
		}
		q.take(m, now)
	}
}

// Unparked is the input that a parked message is no longer parked in the store.
func (q *Queue) Unparked(m *store.Message, now time.Time) {
	if r := q.rows[m.Sequence]; r != nil && r.settled && r.Message.Parked {
		q.unparked(r)
	}
	q.take(m, now)
}

// take admits a message, or leaves it to a scan.
func (q *Queue) take(m *store.Message, now time.Time) {
	_, gone := q.gone[m.Sequence]
	switch {
	case m.Due.After(now) && !canary.Broken("timer-early"):
		q.dueAt(m.Due)
	case gone:
		q.missed = true // what the scan reads of it may be old
	case q.scanning && len(q.late) < q.limits.Late:
		q.late = append(q.late, m)
	case q.scanning:
		q.missed = true
	case q.behind:
	default:
		q.admit(m)
	}
}

// Volatile is the input that an effect is to be tried once. It returns false if
// there is no room.
func (q *Queue) Volatile(m *store.Message, value any) bool {
	if q.volatile >= q.limits.Window {
		return false
	}
	q.volatile++
	q.push(&Row{Message: m, Value: value}, laneKey{source: m.Source, volatile: true})
	return true
}

// Doubted is the input that a commit has failed that may have stored messages
// all the same. They are read from the store.
func (q *Queue) Doubted() {
	if q.scanning {
		q.missed = true
	} else {
		q.behind = true
	}
}

// Close is the input that from now on only effects are to be delivered, which
// would be lost otherwise. Messages stay in the store.
func (q *Queue) Close() { q.closed = true }

// Drained reports whether no delivery is under way and no effect is left.
func (q *Queue) Drained() bool { return q.flight == 0 && q.volatile == 0 }

func (q *Queue) dueAt(t time.Time) {
	if q.due.IsZero() || t.Before(q.due) {
		q.due = t
	}
}

// admit takes a message into memory, or leaves it to a later scan.
func (q *Queue) admit(m *store.Message) {
	if _, known := q.rows[m.Sequence]; known {
		return
	}
	if _, gone := q.gone[m.Sequence]; gone {
		return
	}
	if q.full() {
		q.behind = true
		return
	}
	key := laneKey{source: m.Source, target: m.Target}
	if m.Target.IsZero() {
		key.handler = m.Type
	}
	if l := q.lanes[key]; l != nil && !m.Unordered {
		if l.behind && !canary.Broken("message-overtakes") || l.length >= q.limits.LaneMax {
			l.behind = true
			return
		}
	}
	q.push(&Row{Message: m}, key)
}

// delayedWindows is how many windows of messages there may be in all.
const delayedWindows = 4

func (q *Queue) full() bool {
	return len(q.rows)-q.waiting >= q.limits.Window || len(q.rows) >= delayedWindows*q.limits.Window
}

// roomy reports whether there is room for what makes a scan worth its while.
func (q *Queue) roomy() bool {
	return len(q.rows)-q.waiting <= q.limits.Window/2 && len(q.rows) <= (delayedWindows-1)*q.limits.Window
}

func (q *Queue) push(r *Row, key laneKey) {
	m := r.Message
	if m.Sequence != 0 {
		q.rows[m.Sequence] = r
	}
	l := q.lanes[key]
	if m.Unordered || l == nil {
		l = &lane{key: key}
		if !m.Unordered {
			q.lanes[key] = l
		}
	}
	r.lane = l
	if l.delayed {
		q.waiting++
	}
	if l.length++; l.first == nil {
		l.first = r
		q.ready.push(r)
	} else {
		l.last.next = r
	}
	l.last = r
}

// Next returns a row to deliver, or nil. [Queue.Finished] follows.
func (q *Queue) Next(now time.Time) *Row {
	for len(q.delayed) > 0 && !q.delayed[0].until.After(now) {
		l := heap.Pop(&q.delayed).(*lane)
		l.delayed = false
		q.waiting -= l.length
		q.ready.push(l.first)
	}
	if q.flight >= q.limits.InFlight {
		return nil
	}
	r := q.ready.pop()
	for q.closed && r != nil && r.Message.Sequence != 0 {
		r = q.ready.pop()
	}
	if r != nil {
		q.flight++
	}
	return r
}

// Finished is the input that a delivery has ended.
func (q *Queue) Finished(r *Row, result Result, cause error, now time.Time) {
	q.flight--
	l, m := r.lane, r.Message
	if m.Sequence == 0 {
		q.volatile--
		q.advance(l)
		return
	}
	switch result {
	case Gone:
		q.forget(r)
		q.advance(l)
		return
	case Done:
		r.settled = true
		q.change(r)
		q.advance(l)
		return
	case Later:
		p := q.shell.Policy(m)
		p.BackoffMax = max(p.BackoffMin, laterMax)
		r.later++
		q.delay(l, q.shell.Jitter(backoff(p, r.later)), now)
		return
	}
	changed := *m
	changed.Attempts++
	changed.LastError = errorText(cause)
	p := q.shell.Policy(m)
	r.Message = &changed
	if result == Never || changed.Attempts >= p.AttemptsMax || p.AgeMax > 0 && now.Sub(m.Time) >= p.AgeMax {
		changed.Parked = true
		r.settled = true
		q.advance(l)
	} else {
		q.delay(l, q.shell.Jitter(backoff(p, changed.Attempts)), now)
	}
	q.change(r)
}

// laterMax bounds the pause before a delivery that could not be tried.
const laterMax = time.Second

func backoff(p Policy, attempts uint32) time.Duration {
	d := p.BackoffMin
	for range attempts - 1 {
		if d *= 2; d >= p.BackoffMax || d <= 0 {
			return p.BackoffMax
		}
	}
	return d
}

func (q *Queue) delay(l *lane, d time.Duration, now time.Time) {
	l.delayed, l.until = true, now.Add(d)
	q.waiting += l.length
	heap.Push(&q.delayed, l)
}

// advance takes the first row off its lane and makes the next one ready.
func (q *Queue) advance(l *lane) {
	if l.first = l.first.next; l.first != nil {
		l.length--
		q.ready.push(l.first)
		return
	}
	if l.last, l.length = nil, 0; q.lanes[l.key] == l {
		delete(q.lanes, l.key)
	}
	if l.behind {
		q.behind = true
	}
}

// Wake returns when the queue has something to do by itself; false if never.
// What it does as soon as another input comes does not count.
func (q *Queue) Wake() (at time.Time, ok bool) {
	switch {
	case q.closed:
		return time.Time{}, false
	case q.scanning || !q.roomy():
	case q.behind:
		at, ok = q.scanAt, true
	default:
		if ok = !q.due.IsZero(); ok {
			at = q.due
		}
		if q.limits.RescueEvery > 0 && (!ok || q.rescueAt.Before(at)) {
			at, ok = q.rescueAt, true
		}
		if ok && at.Before(q.scanAt) {
			at = q.scanAt
		}
	}
	if len(q.delayed) > 0 && (!ok || q.delayed[0].until.Before(at)) {
		at, ok = q.delayed[0].until, true
	}
	return at, ok
}

// Load returns how many messages are in memory, and how many of them are being
// delivered.
func (q *Queue) Load() (rows, flight int) { return len(q.rows) + q.volatile, q.flight }
