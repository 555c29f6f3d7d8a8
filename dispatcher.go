package perdure

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perdure/perdure/internal/core/commit"
	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/internal/core/outbox"
	"github.com/perdure/perdure/internal/guard"
	"github.com/perdure/perdure/store"
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
	ordered  bool            // some messages keep their order, so the dispatcher reads halted ones too
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

func newDispatcher(e *Engine, shared bool) *dispatcher {
	d := &dispatcher{
		engine: e, ordered: e.keepsOrder(), logged: make(map[string]struct{}),
		work: make(chan struct{}, 1), quit: make(chan struct{}), ended: make(chan struct{}), followed: make(chan struct{}),
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
		return d.misfit(m.Target.Kind, "kind "+strconv.Quote(m.Target.Kind)+" is not in Config.Kinds")
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
