package perdure

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/core/commit"
	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/internal/core/outbox"
	"github.com/perdure/perdure/internal/guard"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/stream"
)

// Bounds of the dispatcher. Messages above them wait in the store.
const (
	outboxWindow     = 8192
	outboxFlowMax    = 1024
	outboxLate       = 4096
	outboxBytesMax   = 64 << 20
	settleMax        = 512
	scanWakeEvery    = 256
	fetchMax         = 64
	settlePause      = time.Second
	deliveriesPerRun = 256
	loggedMax        = 1024
)

const (
	// lookEvery is the longest time between two looks at the time of day while a timer waits
	// for it: the time of day may step, and the machine may sleep.
	lookEvery = 10 * time.Second
	// stallAfter is the time for which a delivery to an entity delays deliveries to other
	// entities, if there are very many.
	stallAfter = time.Second
	// leaveFor is the time after which a message is parked that this engine has no rule for.
	leaveFor = 24 * time.Hour
	// graceMax bounds the time for which an engine leaves a message that any engine may deliver
	// to the others.
	graceMax = 30 * time.Millisecond
	// watchPause is the shortest time between two notifications of a log.
	watchPause = 10 * time.Millisecond
)

// A dispatcher delivers the messages, timers and effects in the outbox. It is the shell that
// runs the protocol core of package outbox. It learns of new messages from the committer. It
// reads the store at the start, when timers are due, for messages that it does not keep in
// memory, and for messages of other engines.
type dispatcher struct {
	engine   *Engine
	store    store.Outbox
	ordered  store.Halting   // reads the outbox if messages keep their order, else nil
	pipeline commit.Pipeline // pipeline of the batches that complete messages
	owner    uint64          // number of the engine; zero if no other engine uses the log
	counts   deliveryCounts
	watch    stopwatch

	mu        sync.Mutex
	queue     *outbox.Dispatcher
	last      time.Time       // the latest time of watch
	item      *commit.Item    // the settlements at the store, or nil
	closed    bool            // no alarm is needed any more
	stopWake  func() bool     // stops the alarm; nil if none was ever set, or the clock has not returned yet
	drained   chan struct{}   // while closing: closed when no delivery and no effect is left
	flushed   chan struct{}   // while closing: closed when no settlement is left
	waiters   []chan struct{} // closed when there is no work at the present time
	logged    map[string]struct{}
	haltsFull bool // it has logged that too many messages are halted

	work     chan struct{} // has room for one element: there may be work
	quit     chan struct{}
	ended    chan struct{}
	followed chan struct{} // closed at the end of follow
	context  context.Context
	cancel   context.CancelFunc
}

// deliveryCounts are counters since the engine was opened.
type deliveryCounts struct{ delivered, failed, parked atomic.Uint64 }

func newDispatcher(e *Engine, box store.Outbox, shared bool) *dispatcher {
	d := &dispatcher{
		engine: e, store: box, logged: make(map[string]struct{}),
		work: make(chan struct{}, 1), quit: make(chan struct{}), ended: make(chan struct{}), followed: make(chan struct{}),
	}
	if e.keepsOrder() {
		d.ordered = e.log.(store.Halting) // Open has checked the type
	}
	d.pipeline.Owner = d
	d.watch.elapsed = e.elapsed
	d.context, d.cancel = context.WithCancel(context.Background())
	limits := outbox.Limits{
		Window: outboxWindow, FlowMax: outboxFlowMax, BytesMax: outboxBytesMax, Late: outboxLate,
		InFlight: e.config.DeliveriesMax, Stall: stallAfter, ParkAfter: leaveFor,
	}
	if shared {
		d.owner = rand.Uint64() | 1
		limits.Owner, limits.Grace, limits.Poll = d.owner, graceMax, lookEvery
		limits.RescueEvery, limits.RescueAfter = e.config.RescueAfter/2, e.config.RescueAfter
	}
	d.queue = outbox.NewDispatcher(d, limits, outbox.Bounds{
		Deliveries: deliveriesPerRun, Settlements: settleMax, Fetches: fetchMax, Pause: settlePause, Look: lookEvery,
	})
	return d
}

// start starts the dispatcher with a scan of the store. The engine has set its dispatcher by
// then.
func (d *dispatcher) start() {
	go guard.Loop(d.run, d.wake, d.ended) // the clock may end the goroutine
	if d.owner == 0 {
		close(d.followed)
	} else {
		go func() {
			defer close(d.followed)
			d.follow()
		}()
	}
	d.wake()
}

// follow makes the queue look for messages of other engines: when the log reports a change, and
// from time to time. Other processes run in real time, whatever the clock of the engine is, so
// follow uses real time. It asks the log for the next change before the queue looks. A commit
// between the two is then either reported or found.
func (d *dispatcher) follow() {
	w, _ := d.engine.log.(store.Watcher)
	look, pause := time.NewTimer(0), time.NewTimer(0)
	defer look.Stop()
	defer pause.Stop()
	var asked <-chan notice // waits for the log's answer; nil if no request is open
	told := false
	for {
		var changed <-chan struct{}
		every := d.engine.config.Poll
		if w != nil {
			if asked == nil {
				asked = d.askLog(w)
			}
			pause.Reset(watchPause)
			select {
			case n := <-asked:
				asked, changed = nil, n.changed
				if n.err != nil && !told {
					told = true
					d.engine.config.Logger.Error("store cannot tell of changes", "error", n.err)
				}
			case <-pause.C: // a log that does not answer delays no poll
			case <-d.quit:
				return
			}
		}
		if changed != nil {
			every = max(every, stream.PollWatched)
		}
		d.mu.Lock()
		d.queue.Changed()
		d.mu.Unlock()
		d.wake()
		look.Reset(every)
		pause.Reset(watchPause)
		select { // a log may report every commit
		case <-pause.C:
		case <-d.quit:
			return
		}
		select {
		case <-changed:
		case <-look.C:
		case <-d.quit:
			return
		}
	}
}

// A notice is the log's answer to the request for its next change.
type notice struct {
	changed <-chan struct{}
	err     error
}

// askLog asks a log for its next change, on a separate goroutine, because the log is user code.
func (d *dispatcher) askLog(w store.Watcher) <-chan notice {
	asked := make(chan notice, 1)
	go func() {
		changed, err := guard.Apart(d.context, "Changed of the store", func() (<-chan struct{}, error) {
			changed := w.Changed()
			if changed == nil {
				return nil, errors.New("method Changed of the store has returned no channel")
			}
			return changed, nil
		})
		if d.context.Err() != nil {
			err = nil // the engine is closing
		}
		asked <- notice{changed, err}
	}()
	return asked
}

// Policy is part of [outbox.Shell].
func (d *dispatcher) Policy(m *store.Message) outbox.Policy {
	if r := d.engine.effectTypes[m.Type]; r != nil && m.Target.IsZero() {
		return r.policy
	}
	p := d.engine.config.Delivery.policy()
	if k := d.engine.kinds[m.Target.Kind]; k != nil {
		p.KeepOrder = k.keepOrder
	}
	return p
}

// Jitter is part of [outbox.Shell].
func (d *dispatcher) Jitter(t time.Duration) time.Duration {
	return t - time.Duration(rand.Int64N(int64(t)/2+1))
}

// Misfit is part of [outbox.Filter]. It returns an error for a message that this engine has no
// rule for, and leaves to other engines. It logs this once for each type. It is called under
// the lock.
func (d *dispatcher) Misfit(m *store.Message) error {
	switch {
	case d.Fits(m):
		return nil
	case !m.Target.IsZero() && d.engine.kinds[m.Target.Kind] == nil:
		return d.misfit(m.Target.Kind, "the engine does not run the kind "+strconv.Quote(m.Target.Kind))
	case !m.Target.IsZero():
		return d.misfit(m.Target.Kind+" "+m.Type, "kind "+strconv.Quote(m.Target.Kind)+" has no rule for "+m.Type)
	case d.engine.effectTypes[m.Type] != nil:
		return errElsewhere
	}
	return d.misfit(m.Type, "no Perform rule for "+m.Type)
}

var errElsewhere = errors.New("the effect is performed by other engines")

// Fits is part of [outbox.Filter]: it reports whether the engine has a rule for a message.
func (d *dispatcher) Fits(m *store.Message) bool {
	if m.Target.IsZero() {
		r := d.engine.effectTypes[m.Type]
		return r != nil && r.perform != nil
	}
	k := d.engine.kinds[m.Target.Kind]
	return k != nil && k.options.Rules.Commands[m.Type] != nil
}

// Runs is part of [outbox.KindFilter].
func (d *dispatcher) Runs(kind string) bool { return d.engine.kinds[kind] != nil }

func (d *dispatcher) misfit(what, text string) error {
	if _, ok := d.logged[what]; !ok && len(d.logged) < loggedMax {
		d.logged[what] = struct{}{}
		level := slog.LevelWarn
		if d.owner != 0 {
			level = slog.LevelInfo // another engine may have the rule
		}
		d.engine.config.Logger.Log(d.context, level, "messages are left alone, and parked after a day", "reason", text)
	}
	return errors.New(text)
}

func (d *dispatcher) wake() {
	select {
	case d.work <- struct{}{}:
	default:
	}
}

func (d *dispatcher) run() {
	for {
		select {
		case <-d.work:
			d.step()
		case <-d.quit:
			return
		}
	}
}

// asked calls fn under the lock, with the time of day and the time for the queue. The clocks
// are user code, so asked calls them before it takes the lock. If a clock ends the goroutine,
// fn still runs, with alive false.
func (d *dispatcher) asked(fn func(wall, now time.Time, alive bool)) {
	alive := false
	var wall, now time.Time
	defer func() {
		d.locked(now, func(now time.Time) { fn(wall, now, alive) })
	}()
	wall = d.engine.config.Clock.Now()
	now = d.watch.now()
	alive = true
}

// timed is like asked, without the time of day.
func (d *dispatcher) timed(fn func(now time.Time)) {
	var now time.Time
	defer func() { d.locked(now, fn) }()
	now = d.watch.now()
}

// locked calls fn under the lock with the latest time of watch, including now. The time now is
// zero if the clock did not return.
func (d *dispatcher) locked(now time.Time, fn func(now time.Time)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now.After(d.last) {
		d.last = now
	}
	fn(d.last)
}

// step carries out the present work of the queue.
func (d *dispatcher) step() {
	var w outbox.Work
	var item *commit.Item
	var wall, now time.Time
	d.asked(func(atWall, atNow time.Time, alive bool) {
		if !alive {
			return // the goroutine is ending and could not carry out the work
		}
		wall, now = atWall, atNow
		w = d.queue.Step(wall, now)
		if w.Settle != nil {
			item = &commit.Item{Pipeline: &d.pipeline, Batch: store.Batch{Settle: w.Settle}}
			d.item = item
		}
		d.rest(now)
	})
	for _, r := range w.Deliver {
		d.deliver(r, wall)
	}
	if item != nil {
		d.engine.submit(item)
	}
	if w.Fetch != nil {
		go d.fetch(w.Fetch)
	}
	if w.Scans {
		go d.scan(w.Scan, wall)
	}
	if w.Again {
		d.wake()
	}
	if w.Alarms != 0 {
		d.setAlarm(w.Alarms, max(w.Alarm.Sub(now), 0))
	}
}

// setAlarm replaces the alarm. It is the last part of a step, and runs without the lock,
// because the clock is user code.
func (d *dispatcher) setAlarm(n uint64, after time.Duration) {
	d.mu.Lock()
	old := d.stopWake
	d.stopWake = nil
	d.mu.Unlock()
	stop := d.engine.config.Clock.AfterFunc(after, func() { d.ring(n) })
	d.mu.Lock()
	late := d.closed
	d.stopWake = stop
	d.mu.Unlock()
	if late {
		stop()
	}
	if old != nil {
		old()
	}
}

// ring is called when an alarm rings.
func (d *dispatcher) ring(n uint64) {
	d.timed(func(now time.Time) {
		if at, ok := d.queue.Rang(n); ok {
			d.watch.reach(at, now)
		}
	})
	d.wake()
}

// rest wakes the goroutines that wait until there is no work at the present time. It is called
// under the lock, at the end of a step.
func (d *dispatcher) rest(now time.Time) {
	if len(d.waiters) == 0 || len(d.work) > 0 || !d.queue.Rests(now) {
		return
	}
	for _, w := range d.waiters {
		close(w)
	}
	d.waiters = nil
}

// settle waits until there is no work at the present time.
func (d *dispatcher) settle(ctx context.Context) {
	done := make(chan struct{})
	d.mu.Lock()
	d.waiters = append(d.waiters, done)
	d.mu.Unlock()
	d.wake()
	select {
	case <-done:
	case <-ctx.Done():
	case <-d.quit:
	}
}

// ItemsDone is part of [commit.Owner]: the settlements at the store have an outcome.
func (d *dispatcher) ItemsDone(int) {
	d.timed(d.settlementsStored)
	d.wake()
}

// settlementsStored does the work of ItemsDone, under the lock.
func (d *dispatcher) settlementsStored(now time.Time) {
	list := d.item.Batch.Settle
	if err := errors.Join(d.item.Err, d.item.Result.Err); err != nil {
		if errors.Is(err, store.ErrMessageGone) {
			d.engine.config.Logger.Debug("an outbox message is another engine's by now", "messages", len(list), "error", err)
		} else {
			d.engine.config.Logger.Error("settlements of outbox messages were not stored", "messages", len(list), "error", err)
		}
		d.pipeline.Reset()
	}
	if !d.item.Failed() {
		d.parked(list)
	}
	d.queue.Stored(d.item.Err, d.item.Result.Err, now)
	d.item = nil
	d.flush()
}

// parked logs the messages that are parked or halted now.
func (d *dispatcher) parked(list []store.Settlement) {
	for i := range list {
		if m := list[i].Message; m != nil && m.Parked {
			d.counts.parked.Add(1)
			attrs := []any{
				"type", m.Type, "id", m.ID.String(), "sequence", list[i].Sequence,
				"entity", m.Source.String(), "target", m.Target.String(), "timer", m.Timer,
				"attempts", m.Attempts, "error", m.LastError,
			}
			if m.Halted {
				d.engine.config.Logger.Error("message is halted, and those behind it in its flow wait: unpark or drop it", attrs...)
			} else {
				d.engine.config.Logger.Error("message is parked", attrs...)
			}
		}
	}
}

// flush wakes close when no settlement is left, or the rest cannot be stored. It is called
// under the lock.
func (d *dispatcher) flush() {
	if d.flushed != nil && d.queue.Flushed() {
		close(d.flushed)
		d.flushed = nil
	}
}

// committed passes the messages of a stored batch to the queue.
func (d *dispatcher) committed(b *store.Batch, r *store.Result) {
	messages := outbox.Committed(b, r)
	defer d.wake()
	d.asked(func(wall, now time.Time, alive bool) {
		if alive {
			d.queue.Clock(wall, now)
		}
		d.queue.Committed(messages, now)
	})
}

// outcomeUnknown makes the queue look for messages of commits with an unknown outcome.
func (d *dispatcher) outcomeUnknown() {
	d.mu.Lock()
	d.queue.OutcomeUnknown()
	d.mu.Unlock()
	d.wake()
}

// send queues the sent effects of a command whose answer is durable.
func (d *dispatcher) send(key store.Key, c *entity.Call) {
	lost := 0
	d.mu.Lock()
	for i, m := range c.Outcome.Effects {
		if !d.queue.Volatile(&store.Message{ID: entity.EffectID(c.ID, i), Source: key, Type: messageName(m), Metadata: c.ChildMetadata()}, m) {
			lost++
		}
	}
	d.mu.Unlock()
	if lost > 0 {
		d.engine.config.Logger.Error("sent effects are lost: too many are waiting", "entity", key.String(), "effects", lost)
	}
	d.wake()
}

// scan reads the messages that the queue wants, by the time of day.
func (d *dispatcher) scan(plan outbox.Scan, wall time.Time) {
	var due time.Time
	failure := errors.New("store: outbox: called runtime.Goexit")
	defer func() {
		if failure != nil && d.context.Err() == nil {
			d.engine.config.Logger.Error("outbox could not be read", "error", failure)
		}
		defer d.wake()
		d.timed(func(now time.Time) {
			d.queue.ScanEnded(due, failure != nil, now)
			d.drain()
		})
	}()
	due, failure = d.reads(plan, wall)
}

// reads carries out the parts of a scan, and returns the due time of the first timer that is
// not due yet.
func (d *dispatcher) reads(plan outbox.Scan, wall time.Time) (due time.Time, failure error) {
	if plan.Undue {
		failure = d.read(store.MessageQuery{After: plan.After}, true)
	}
	if plan.Timers && failure == nil {
		failure = d.read(store.MessageQuery{AfterDue: plan.AfterDue, After: plan.AfterTimer, DueBy: wall}, false)
	}
	if plan.First && failure == nil {
		failure = d.messages(store.MessageQuery{AfterDue: wall, After: math.MaxUint64}, func(m *store.Message) bool {
			if !m.Due.After(wall) {
				return true // at 1970 exactly, the store sorts the time of day as "no due time"
			}
			due = m.Due
			return false
		})
	}
	return due, failure
}

// read passes messages to the queue: either those without a due time, or those with one.
func (d *dispatcher) read(q store.MessageQuery, undue bool) error {
	read := 0
	return d.messages(q, func(m *store.Message) bool {
		if undue && !m.Due.IsZero() {
			return false
		}
		d.mu.Lock()
		more := d.queue.Scanned(m) && !d.queue.Closing()
		d.mu.Unlock()
		if read++; read%scanWakeEvery == 0 {
			d.wake()
		}
		return more
	})
}

// messages reads messages until fn returns false. A damaged message stays in the store and does
// not stop the others. A panic of the store becomes an error.
func (d *dispatcher) messages(q store.MessageQuery, fn func(*store.Message) (more bool)) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("store: outbox: panic: %v\n%s", v, debug.Stack())
		}
	}()
	read := d.store.Messages
	if d.ordered != nil {
		read = d.ordered.Undelivered
	}
	for m, err := range read(d.context, q) {
		switch {
		case errors.Is(err, store.ErrCorrupt):
			d.damaged(err)
		case err != nil:
			return err
		case !fn(m):
			return nil
		}
	}
	return nil
}

// damaged logs a damaged message, once.
func (d *dispatcher) damaged(err error) {
	text := err.Error()
	d.mu.Lock()
	_, said := d.logged[text]
	if !said && len(d.logged) < loggedMax {
		d.logged[text] = struct{}{}
	}
	d.mu.Unlock()
	if !said {
		d.engine.config.Logger.Error("outbox message is damaged", "error", err)
	}
}

// fetch reads rows again.
func (d *dispatcher) fetch(rows []*outbox.Row) {
	if len(rows) > 0 {
		defer d.fetch(rows[1:]) // also if the store ends the goroutine
		d.fetchOne(rows[0])
		return
	}
	d.mu.Lock()
	d.queue.FetchEnded()
	d.drain()
	d.mu.Unlock()
	d.wake()
}

func (d *dispatcher) fetchOne(r *outbox.Row) {
	due, sequence := r.Place()
	var found *store.Message
	err := errors.New("store: outbox: called runtime.Goexit")
	defer func() {
		if err != nil && d.context.Err() == nil {
			d.engine.config.Logger.Error("outbox message could not be read", "sequence", sequence, "error", err)
		}
		d.timed(func(now time.Time) { d.queue.Fetched(r, found, err != nil, now) })
	}()
	err = d.messages(store.MessageQuery{AfterDue: due, After: sequence - 1}, func(m *store.Message) bool {
		if m.Sequence == sequence {
			found = m
		}
		return false
	})
}

// deliver starts the delivery of a row. The parameter wall is the time of day.
func (d *dispatcher) deliver(r *outbox.Row, wall time.Time) {
	if r.Message.Target.IsZero() {
		go d.perform(r)
		return
	}
	d.command(r, wall)
}

// finished passes the result of a delivery to the queue.
func (d *dispatcher) finished(r *outbox.Row, result outbox.Result, cause error) {
	if result == outbox.Done || result == outbox.Gone {
		d.counts.delivered.Add(1)
	}
	defer d.wake()
	d.timed(func(now time.Time) {
		d.queue.Finished(r, result, cause, now)
		d.drain()
		if n, crammed := d.queue.Halted(); crammed && !d.haltsFull {
			d.haltsFull = true
			d.engine.config.Logger.Error("too many messages are halted: others that fail for good are tried on and on", "halted", n)
		}
	})
}

// failed logs the failure of a delivery, and passes it to the queue. It calls methods of the
// error, which is user code, so it runs on the goroutine of the delivery.
func (d *dispatcher) failed(r *outbox.Row, result outbox.Result, err error) {
	textOf(err, func(text string) {
		m := r.Message
		d.counts.failed.Add(1)
		attrs := []any{
			"type", m.Type, "id", m.ID.String(), "entity", m.Source.String(), "target", m.Target.String(),
			"timer", m.Timer, "attempt", m.Attempts + 1, "error", text,
		}
		if p, ok := err.(*PanicError); ok { //nolint:errorlint // As is user code
			attrs = append(attrs, "stack", string(p.Stack))
		}
		if m.Target.IsZero() {
			d.engine.config.Logger.Warn("effect has failed", attrs...)
		} else {
			d.engine.config.Logger.Warn("message has failed", attrs...)
		}
		d.finished(r, result, errors.New(text))
	})
}

// drain wakes close when the last delivery or read has ended. It is called under the lock.
func (d *dispatcher) drain() {
	if d.drained != nil && d.queue.Drained() {
		close(d.drained)
		d.drained = nil
	}
}

// perform runs the handler of an effect.
func (d *dispatcher) perform(r *outbox.Row) {
	err, result := errors.New("handler called runtime.Goexit"), outbox.Retry
	defer func() {
		if err == nil {
			d.finished(r, outbox.Done, nil)
			return
		}
		d.failed(r, result, err)
	}()
	defer func() {
		if v := recover(); v != nil {
			stack := debug.Stack()
			err, result = fmt.Errorf("handler panicked with a %T whose text cannot be told\n%s", v, stack), outbox.Retry
			err = fmt.Errorf("handler panicked: %v\n%s", v, stack) // the panic value's methods are user code
		}
	}()
	returned := d.handle(r)
	if returned == nil {
		err = nil
		return
	}
	kind := performResult(returned)
	if kind == outbox.Retry && d.context.Err() != nil {
		kind = outbox.Later // the engine is closing and has ended the handler's context
	}
	err, result = returned, kind
}

func (d *dispatcher) handle(r *outbox.Row) error {
	m := r.Message
	rule := d.engine.effectTypes[m.Type]
	if rule == nil || rule.perform == nil {
		return Park(fmt.Errorf("no Perform rule for %s", m.Type))
	}
	message, ok := r.Value.(proto.Message)
	if !ok {
		message = newMessage(rule.message)
		if err := proto.Unmarshal(m.Payload, message); err != nil {
			return Park(fmt.Errorf("decode %s: %w", m.Type, err))
		}
	}
	ctx := d.context
	if rule.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, rule.timeout)
		defer cancel()
	}
	return rule.perform(context.WithValue(ctx, deliveryKey{}, &EffectInfo{
		ID: m.ID, Attempt: int(m.Attempts) + 1, Source: m.Source,
		Causation: m.Metadata.CausationID, Correlation: m.Metadata.Correlation(), Enqueued: m.Time,
		engine: d.engine,
	}), message)
}

// command sends a message to the entity that is its target.
func (d *dispatcher) command(r *outbox.Row, wall time.Time) {
	m := r.Message
	k := d.engine.kinds[m.Target.Kind]
	message := k.options.Rules.NewCommand(m.Type)
	if err := proto.Unmarshal(m.Payload, message); err != nil {
		go d.failed(r, outbox.Never, fmt.Errorf("decode %s: %w", m.Type, err))
		return
	}
	var next *store.Message
	if m.Every != "" {
		var err error
		if next, err = nextTimer(m, wall); err != nil {
			go d.failed(r, outbox.Retry, err)
			return
		}
	}
	c := d.engine.newCall(d.context, entity.OpCommand, message, nil)
	c.Next = next
	c.ID, c.Metadata = m.ID, m.Metadata
	c.OutboxSequence, c.ReplyTo, c.ReplyName = m.Sequence, m.ReplyTo, m.ReplyName
	c.key = m.Target
	c.callback = func(c *call) {
		result, err := commandResult(c)
		if result == outbox.Gone {
			d.finished(r, result, nil)
			return
		}
		go d.failed(r, result, err)
	}
	if err := d.engine.send(k, m.Target.ID, c); err != nil {
		go d.failed(r, outbox.Later, err)
	}
}

// commandResult converts an entity's outcome to the result of the delivery. An entity that
// decides the command removes the message with its own commit.
func commandResult(c *call) (outbox.Result, error) {
	switch c.Outcome.Status {
	case entity.StatusDone, entity.StatusRefused, entity.StatusMessageGone:
		return outbox.Gone, nil
	case entity.StatusInvalid, entity.StatusPanicked, entity.StatusClaimed, entity.StatusWrongVersion,
		entity.StatusUnhandled, entity.StatusFault:
		return outbox.Retry, failure(c.key, &c.Call, 0)
	}
	return outbox.Later, failure(c.key, &c.Call, 0)
}

// close stops the dispatcher. As long as ctx allows, it first waits for deliveries in progress
// and for sent effects, and then for their settlements to be stored. It does not wait for the
// delivery self, whose handler has called Close, if there is one.
func (d *dispatcher) close(ctx context.Context, self *EffectInfo) error {
	drained, flushed := make(chan struct{}), make(chan struct{})
	d.mu.Lock()
	d.queue.Close(self != nil, self != nil && self.Enqueued.IsZero())
	d.drained = drained
	d.drain()
	d.mu.Unlock()
	d.wake()
	err := waitFor(ctx, drained)
	if err == nil {
		d.mu.Lock()
		d.flushed = flushed
		d.queue.Flush()
		d.flush()
		d.mu.Unlock()
		d.wake()
		err = waitFor(ctx, flushed)
	}
	d.cancel()
	close(d.quit)
	if waitFor(ctx, d.ended) != nil && err == nil {
		err = ctx.Err()
	}
	if waitFor(ctx, d.followed) != nil && err == nil {
		err = ctx.Err()
	}
	d.mu.Lock()
	d.closed = true
	stop := d.stopWake
	d.mu.Unlock()
	if stop != nil {
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			stop() // the clock is user code
		}()
		if waitFor(ctx, stopped) != nil && err == nil {
			err = ctx.Err()
		}
	}
	return err
}

func waitFor(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
