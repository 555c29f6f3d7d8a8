package sim_test

import (
	"errors"
	"math"
	"time"

	"github.com/perdure/perdure/internal/core/commit"
	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/internal/core/outbox"
	"github.com/perdure/perdure/store"
)

const (
	// deliveriesMax and settleMax bound the work of one step.
	deliveriesMax = 4
	settleMax     = 3
	// settlePause is the pause after settlements that could not be stored.
	settlePause = 50 * time.Millisecond
	// scanPage is the number of messages that a scan reads at a time.
	scanPage = 2
	// fetchMax bounds the messages that are read again in one step.
	fetchMax = 3
	// lookEvery is the longest time to the next alarm. Such an alarm is no work to wait for.
	lookEvery = rescueAfter
	// stallsMax bounds the number of times that a handler does nothing instead of its work.
	stallsMax = 5
)

var (
	errHandler = errors.New("handler has failed")
	errNever   = errors.New("it will never work")
	errTarget  = errors.New("the target does not take it")
	errNoRule  = errors.New("the program has no rule for it")
)

// A dispatcher delivers the records in the outbox: it is the shell around the core of package
// outbox, on one node. Like the shell of an engine it acts only on alarms and events.
type dispatcher struct {
	node     *node
	queue    *outbox.Dispatcher
	pipeline commit.Pipeline
	item     *commit.Item // the settlements at the store, or nil
	alarm    time.Time    // time of the alarm, if alarms is not zero
	alarms   uint64
	looking  bool            // a step is scheduled
	owner    uint64          // number of the engine, on a shared store
	swept    int             // start of its latest whole sweep
	did      map[uint64]bool // messages that it has handled
	sent     map[store.Key]store.Version
}

func newBox(n *node) *dispatcher {
	b := &dispatcher{node: n, sent: make(map[store.Key]store.Version), did: make(map[uint64]bool)}
	b.pipeline.Owner = b
	limits := n.w.dispatcher
	if n.w.shared {
		n.w.dispatchers++
		limits.Owner = n.w.dispatchers
	}
	b.owner = limits.Owner
	b.queue = outbox.NewDispatcher(b, limits, outbox.Bounds{
		Deliveries: deliveriesMax, Settlements: settleMax, Fetches: fetchMax, Pause: settlePause, Look: lookEvery,
	})
	b.wake()
	return b
}

// Policy is part of [outbox.Shell].
func (b *dispatcher) Policy(m *store.Message) outbox.Policy {
	p := outbox.Policy{AttemptsMax: b.node.w.attempts, BackoffMin: 5 * time.Millisecond, BackoffMax: 100 * time.Millisecond, KeepOrder: b.node.w.order()}
	if !m.Target.IsZero() {
		p.AttemptsMax = math.MaxUint32
	}
	return p
}

// Fits is part of [outbox.Filter]: a program of another version may have no rule.
func (b *dispatcher) Fits(m *store.Message) bool { return m.Type != b.node.lacks }

// Misfit is part of [outbox.Filter].
func (b *dispatcher) Misfit(m *store.Message) error {
	if b.Fits(m) {
		return nil
	}
	return errNoRule
}

// Jitter is part of [outbox.Shell].
func (b *dispatcher) Jitter(d time.Duration) time.Duration {
	if d >= rescueAfter/2 {
		return d // the engine closes
	}
	return d - time.Duration(b.node.w.random.Int64N(int64(d)/2+1))
}

func (b *dispatcher) wake() {
	if !b.looking {
		b.looking = true
		b.node.w.later(b.step, "node %d looks at its outbox", b.node.name)
	}
}

// look rings the alarm when its time has come.
func (b *dispatcher) look() {
	if b.alarms == 0 || b.alarm.After(b.node.w.now()) {
		return
	}
	n := b.alarms
	b.alarms = 0
	b.queue.Rang(n)
	b.wake()
}

// step carries out the present work.
func (b *dispatcher) step() {
	b.looking = false
	n := b.node
	if n.gone || n.stops {
		return
	}
	wall := n.wall()
	w := b.queue.Step(wall, n.w.now())
	if w.Alarms != 0 {
		b.alarm, b.alarms = w.Alarm, w.Alarms
	}
	if w.Settle != nil {
		b.item = &commit.Item{Pipeline: &b.pipeline, Batch: store.Batch{Settle: w.Settle}}
	}
	item := b.item
	for _, r := range w.Deliver {
		b.deliver(r)
	}
	if w.Settle != nil {
		n.submit(item)
	}
	if w.Fetch != nil {
		b.fetch(w.Fetch)
	}
	if w.Scans {
		n.w.note("  node %d begins a scan: %+v", n.name, w.Scan)
		s := &scan{Scan: w.Scan, by: wall}
		if s.Undue && s.After == 0 {
			s.began = n.w.tick()
		}
		b.scan(s)
	}
	if w.Again {
		b.wake()
	}
}

// ItemsDone is part of [commit.Owner].
func (b *dispatcher) ItemsDone(int) {
	w := b.node.w
	group, refused := b.item.Err, b.item.Result.Err
	if b.item.Failed() {
		w.note("  node %d could not settle %d messages: %v", b.node.name, len(b.item.Batch.Settle), errors.Join(group, refused))
		if w.mutant.settlesUnsaved {
			group, refused = nil, nil
		}
	}
	b.queue.Stored(group, refused, w.now())
	b.pipeline.Reset()
	b.item = nil
	b.wake()
}

// committed passes the messages of a stored batch to the queue.
func (b *dispatcher) committed(batch *store.Batch, r *store.Result) {
	b.queue.Clock(b.node.wall(), b.node.w.now())
	b.queue.Committed(outbox.Committed(batch, r), b.node.w.now())
	b.wake()
}

// changed makes the queue read the store, because other nodes may have stored messages.
func (b *dispatcher) changed() {
	if !b.node.gone {
		b.queue.Changed()
		b.wake()
	}
}

// doubted makes the queue read the store again, because it may hold messages that no commit has
// reported.
func (b *dispatcher) doubted() {
	if !b.node.w.mutant.missesUnknownOutcomes {
		b.queue.OutcomeUnknown()
		b.wake()
	}
}

// send queues the sent effects of a command whose answer is durable.
func (b *dispatcher) send(key store.Key, c *entity.Call) {
	for _, m := range c.Outcome.Effects {
		if !b.queue.Volatile(&store.Message{ID: c.ID, Source: key, Metadata: c.Metadata}, m) {
			b.node.w.note("  an effect of %v is lost", key)
		}
	}
	b.wake()
}

// A scan is the part of the store that is yet to be read for the queue.
type scan struct {
	outbox.Scan
	by    time.Time
	began int // start of the scan, if it is a whole sweep
}

// query returns the query for the next read.
func (s *scan) query() store.MessageQuery {
	if s.Undue {
		return store.MessageQuery{After: s.After}
	}
	return store.MessageQuery{AfterDue: s.AfterDue, After: s.AfterTimer, DueBy: s.by}
}

// scan reads messages for the queue, a few at a time. A message may be out of date when the
// queue gets it.
func (b *dispatcher) scan(s *scan) {
	w := b.node.w
	w.later(func() {
		var page []*store.Message
		for m, err := range w.disk.log.Undelivered(background, s.query()) {
			if err != nil {
				panic(err)
			}
			if !s.Undue && !s.Timers || s.Undue && !m.Due.IsZero() {
				break
			}
			page = append(page, m)
			if len(page) == scanPage {
				break
			}
		}
		failed := w.sick()
		w.later(func() { b.scanned(s, page, failed) }, "node %d has read %d messages, failed: %t", b.node.name, len(page), failed)
	}, "node %d reads its outbox", b.node.name)
}

func (b *dispatcher) scanned(s *scan, page []*store.Message, failed bool) {
	if b.node.gone {
		return
	}
	more := !failed && len(page) == scanPage
	for _, m := range page {
		b.node.w.note("  it has met message %d", m.Sequence)
		if failed || !b.queue.Scanned(m) {
			more, s.began = false, 0
			break
		}
		if s.Undue {
			s.After = m.Sequence
		} else {
			s.AfterDue, s.AfterTimer = m.Due, m.Sequence
		}
	}
	switch {
	case more:
	case s.Undue && !failed:
		s.Undue = false
	default:
		b.read(s, failed)
		return
	}
	b.wake()
	b.scan(s)
}

// read ends a scan.
func (b *dispatcher) read(s *scan, failed bool) {
	w := b.node.w
	var due time.Time
	for m, err := range w.disk.log.Undelivered(background, store.MessageQuery{AfterDue: s.by, After: math.MaxUint64}) {
		if err != nil {
			panic(err)
		}
		if s.First {
			due = m.Due
		}
		break
	}
	w.later(func() {
		if !b.node.gone {
			if !failed {
				b.swept = max(b.swept, s.began)
			}
			b.queue.ScanEnded(due, failed, w.now())
			b.wake()
		}
	}, "node %d has read its outbox", b.node.name)
}

// fetch reads messages again, one after the other.
func (b *dispatcher) fetch(rows []*outbox.Row) {
	w := b.node.w
	if len(rows) == 0 {
		b.queue.FetchEnded()
		return
	}
	r := rows[0]
	w.later(func() {
		due, sequence := r.Place()
		var found *store.Message
		for m, err := range w.disk.log.Undelivered(background, store.MessageQuery{AfterDue: due, After: sequence - 1}) {
			if err != nil {
				panic(err)
			}
			if m.Sequence == sequence {
				found = m
			}
			break
		}
		failed := w.sick()
		w.later(func() {
			if !b.node.gone {
				b.queue.Fetched(r, found, failed, w.now())
				b.wake()
				b.fetch(rows[1:])
			}
		}, "node %d has read message %d again, found: %t, failed: %t", b.node.name, sequence, found != nil, failed)
	}, "node %d reads a message again", b.node.name)
}

func (b *dispatcher) deliver(r *outbox.Row) {
	b.node.w.disk.outbox.checkHalted(r, b)
	if r.Message.Target.IsZero() {
		b.perform(r)
	} else {
		b.command(r)
	}
}

func (b *dispatcher) finished(r *outbox.Row, result outbox.Result, cause error) {
	if !b.node.gone {
		b.did[r.Message.Sequence] = b.did[r.Message.Sequence] || result == outbox.Done
		b.queue.Finished(r, result, cause, b.node.w.now())
		b.wake()
	}
}

// perform runs the handler of an effect. The handler may stall, fail, or do its work without
// reporting it.
func (b *dispatcher) perform(r *outbox.Row) {
	w, stalls := b.node.w, 0
	early := w.mutant.settlesUnhandled && r.Message.Sequence != 0
	if early {
		b.finished(r, outbox.Done, nil)
	}
	var work func()
	work = func() {
		if w.ill.hangs(r.Message) && !b.node.gone {
			w.note("  the handler of message %d hangs", r.Message.Sequence)
			w.ill.hung = append(w.ill.hung, work)
			return
		}
		if b.node.gone && w.chance(0.5) {
			return
		}
		if w.faulty && stalls < stallsMax && w.chance(0.3*w.harm) {
			stalls++
			w.later(work, "node %d: the handler of message %d stalls", b.node.name, r.Message.Sequence)
			return
		}
		result, err := b.attempt(r)
		if early {
			return
		}
		w.later(func() { b.finished(r, result, err) }, "node %d: the handler of message %d ends: %v", b.node.name, r.Message.Sequence, err)
	}
	w.later(work, "node %d: the handler of message %d begins", b.node.name, r.Message.Sequence)
}

// attempt runs the handler and returns its result.
func (b *dispatcher) attempt(r *outbox.Row) (outbox.Result, error) {
	w := b.node.w
	done := func() { w.disk.outbox.perform(r, b) }
	if !w.faulty {
		done()
		return outbox.Done, nil
	}
	l := w.disk.outbox.rows[r.Message.Sequence]
	result, err := outbox.Retry, errHandler
	switch x := w.random.Float64() / w.harm; {
	case x < 0.02, w.order() && x < 0.25: // in these runs flows are halted often
		result, err = outbox.Never, errNever
	case x < 0.30 && w.order(), x < 0.10:
	case x < 0.35 && w.order(), x < 0.15:
		done()
	default:
		done()
		return outbox.Done, nil
	}
	if l != nil && (result == outbox.Never || r.Message.Attempts+1 >= w.attempts) {
		l.gaveUp = true
	}
	return result, err
}

// A delivery is a message on its way to its target entity.
type delivery struct {
	dispatcher *dispatcher
	row        *outbox.Row
	started    int
	replies    int
}

// command sends a message to its target.
func (b *dispatcher) command(r *outbox.Row) {
	w, m := b.node.w, r.Message
	if m.Due.After(w.latest) {
		w.broken("message %d is delivered, and is due at %v; no clock has shown more than %v", m.Sequence, m.Due, w.latest)
	}
	if !b.Fits(m) {
		w.broken("message %d is delivered by node %d, which has no rule for it", m.Sequence, b.node.name)
	}
	d := &delivery{dispatcher: b, row: r, started: w.tick()}
	c := &entity.Call{
		Ctx: background, Op: entity.OpCommand, Message: newMessage(w.rules, m), ID: m.ID, Metadata: m.Metadata,
		OutboxSequence: m.Sequence, ReplyTo: m.ReplyTo, ReplyName: m.ReplyName, Owner: d,
	}
	w.note("  node %d delivers message %d to %v", b.node.name, m.Sequence, m.Target)
	b.node.activation(m.Target).deliver(c)
}

// reply receives the answer of the target.
func (d *delivery) reply(out entity.Outcome) {
	w, m := d.dispatcher.node.w, d.row.Message
	w.note("  message %d is answered: status %d, version %d", m.Sequence, out.Status, out.Version)
	if d.replies++; d.replies > 1 {
		w.broken("message %d is answered %d times", m.Sequence, d.replies)
		return
	}
	l := w.disk.outbox.rows[m.Sequence]
	switch out.Status {
	case entity.StatusDone, entity.StatusRefused:
		if l == nil || l.decided == 0 {
			w.broken("message %d is answered with status %d and is not decided", m.Sequence, out.Status)
		}
		d.dispatcher.finished(d.row, outbox.Gone, nil)
	case entity.StatusMessageGone:
		if l == nil || l.closed == 0 {
			w.broken("message %d is taken for settled, and is not", m.Sequence)
		}
		d.dispatcher.finished(d.row, outbox.Gone, nil)
	case entity.StatusInvalid, entity.StatusPanicked, entity.StatusClaimed, entity.StatusWrongVersion, entity.StatusUnhandled:
		d.dispatcher.finished(d.row, outbox.Retry, errTarget)
	default:
		if out.Status != entity.StatusUnknown && !w.shared && l != nil && l.decided >= d.started {
			w.broken("%v is answered with status %d and is decided", l, out.Status)
		}
		d.dispatcher.finished(d.row, outbox.Later, errTarget)
	}
}
