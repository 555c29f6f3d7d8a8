package perdure

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/canary"
	"github.com/perdure/perdure/internal/commit"
	"github.com/perdure/perdure/internal/entity"
	"github.com/perdure/perdure/internal/outbox"
	"github.com/perdure/perdure/store"
)

// Bounds of the dispatcher. What is above them waits in the store.
const (
	outboxWindow     = 8192
	outboxLaneMax    = 1024
	outboxLate       = 4096
	settleMax        = 512
	scanWakeEvery    = 256
	settlePause      = time.Second
	deliveriesPerRun = 256
)

// entityPolicy is for messages to entities: a target that cannot take them now
// is tried for about a day before they are parked.
var entityPolicy = outbox.Policy{
	AttemptsMax: 1500, BackoffMin: 10 * time.Millisecond, BackoffMax: BackoffMaxDefault,
}

// A dispatcher delivers what commands have left in the outbox: the shell that
// runs the protocol core of package outbox. It learns of new messages from the
// committer, and reads the store only at the start, when timers are due, after
// more has come than it keeps in memory, and from time to time where it may find
// messages of another engine that has died.
type dispatcher struct {
	engine *Engine
	box    store.Outbox
	lane   commit.Lane // of the batches that settle messages

	mu       sync.Mutex
	queue    *outbox.Queue
	item     *commit.Item // the settlements on their way, or nil
	pause    time.Time    // no settlements before
	single   int          // settlements that are tried one by one
	closing  bool
	wakeTime time.Time     // when the timer is set to, if stopWake is not nil
	stopWake func() bool   // stops it
	running  int           // deliveries under way, and the scan
	drained  chan struct{} // closed when none is left and no effect, once closing
	flushed  chan struct{} // closed when nothing is left to settle, once closing

	work    chan struct{} // one element: there may be something to do
	quit    chan struct{}
	ended   chan struct{}
	context context.Context
	cancel  context.CancelFunc
}

func newDispatcher(e *Engine, box store.Outbox, shared bool) *dispatcher {
	d := &dispatcher{
		engine: e, box: box,
		work: make(chan struct{}, 1), quit: make(chan struct{}), ended: make(chan struct{}),
	}
	d.lane.Owner = d
	d.context, d.cancel = context.WithCancel(context.Background())
	limits := outbox.Limits{
		Window: outboxWindow, LaneMax: outboxLaneMax, InFlight: e.config.DeliveriesMax, Late: outboxLate,
	}
	if shared {
		limits.RescueEvery, limits.RescueAfter = e.config.RescueAfter/2, e.config.RescueAfter
	}
	d.queue = outbox.New(d, limits)
	return d
}

// start begins with a scan of the store. The engine knows the dispatcher by then.
func (d *dispatcher) start() {
	go d.run()
	d.wake()
}

// Policy is part of [outbox.Shell].
func (d *dispatcher) Policy(m *store.Message) outbox.Policy {
	if r := d.engine.effectTypes[m.Type]; r != nil && m.Target.IsZero() {
		return r.policy
	}
	return entityPolicy
}

// Jitter is part of [outbox.Shell].
func (d *dispatcher) Jitter(t time.Duration) time.Duration {
	return t - time.Duration(rand.Int64N(int64(t)/2+1))
}

func (d *dispatcher) wake() {
	select {
	case d.work <- struct{}{}:
	default:
	}
}

func (d *dispatcher) run() {
	defer close(d.ended)
	for {
		select {
		case <-d.work:
			d.step()
		case <-d.quit:
			return
		}
	}
}

// step does what there is to do at this moment.
func (d *dispatcher) step() {
	now := d.engine.config.Clock.Now()
	var rows []*outbox.Row
	d.mu.Lock()
	for len(rows) < deliveriesPerRun {
		r := d.queue.Next(now)
		if r == nil {
			break
		}
		rows = append(rows, r)
	}
	item := d.settlements(now)
	d.running += len(rows)
	scan := !d.closing && d.queue.WantsScan(now)
	if scan {
		d.queue.ScanBegins()
		d.running++
	}
	d.wakeAt(now)
	d.mu.Unlock()

	for _, r := range rows {
		d.deliver(r)
	}
	if item != nil {
		d.engine.submit(item)
	}
	if scan {
		go d.scan(now)
	}
	if len(rows) == deliveriesPerRun {
		d.wake()
	}
}

// settlements makes an item of what is to be settled, if none is on its way. It
// is called under the lock.
func (d *dispatcher) settlements(now time.Time) *commit.Item {
	if d.item != nil || now.Before(d.pause) {
		return nil
	}
	most := settleMax
	if d.single > 0 {
		most = 1
	}
	list := d.queue.Settlements(most)
	if len(list) == 0 {
		return nil
	}
	d.item = &commit.Item{Lane: &d.lane, Batch: store.Batch{Settle: list}}
	return d.item
}

// wakeAt arms the timer for what is to be done later. It is called under the lock.
func (d *dispatcher) wakeAt(now time.Time) {
	at, ok := d.queue.Wake()
	if d.pause.After(now) && (!ok || d.pause.Before(at)) {
		at, ok = d.pause, true
	}
	if d.stopWake != nil && (!ok || !at.Equal(d.wakeTime) || d.closing) {
		d.stopWake()
		d.stopWake = nil
	}
	if ok && !d.closing && (d.stopWake == nil || !d.wakeTime.After(now)) {
		d.wakeTime = at
		d.stopWake = d.engine.config.Clock.AfterFunc(max(at.Sub(now), 0), d.wake)
	}
}

// Settled is part of [commit.Owner]: the settlements are stored, or not.
func (d *dispatcher) Settled(int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := d.item.Batch.Settle
	if err := errors.Join(d.item.Err, d.item.Result.Err); err != nil {
		d.engine.config.Logger.Error("outbox messages could not be settled", "messages", len(list), "error", err)
		d.lane.Reset()
	}
	switch {
	case !d.item.Failed():
		d.queue.Settled(list)
		d.single -= min(d.single, len(list))
	case d.item.Err == nil && len(list) == 1:
		// The store refuses this one, which is damaged. It stays there; the
		// others must not wait for it.
		d.queue.Settled(list)
		d.single -= min(d.single, 1)
	case d.item.Err == nil:
		d.queue.Unsettled(list)
		d.single = len(list) // find out which one it is
	default:
		d.queue.Unsettled(list)
		d.pause = d.engine.config.Clock.Now().Add(settlePause)
	}
	d.item = nil
	d.flush()
	d.wake()
}

// flush tells close when nothing is left to settle, or it cannot be. It is
// called under the lock.
func (d *dispatcher) flush() {
	if d.flushed != nil && d.item == nil && (!d.queue.Unsaved() || !d.pause.IsZero()) {
		close(d.flushed)
		d.flushed = nil
	}
}

// committed takes over the messages of a batch that is stored.
func (d *dispatcher) committed(b *store.Batch, r *store.Result) {
	messages := make([]*store.Message, len(b.Enqueue))
	for i := range b.Enqueue {
		m := b.Enqueue[i]
		m.Source, m.Time = b.Key, r.Time
		m.Sequence = r.Sequence - uint64(len(b.Enqueue)-1-i)
		messages[i] = &m
	}
	d.mu.Lock()
	d.queue.Committed(messages, d.engine.config.Clock.Now())
	d.mu.Unlock()
	d.wake()
}

// doubted has the dispatcher look for messages of commits whose outcome is not known.
func (d *dispatcher) doubted() {
	d.mu.Lock()
	d.queue.Doubted()
	d.mu.Unlock()
	d.wake()
}

// send has the effects of a command performed, whose answer is durable.
func (d *dispatcher) send(key store.Key, c *entity.Call) {
	lost := 0
	d.mu.Lock()
	for i, m := range c.Outcome.Effects {
		if !d.queue.Volatile(&store.Message{ID: entity.EffectID(c.ID, i), Source: key, Type: messageName(m), Metadata: c.Onward()}, m) {
			lost++
		}
	}
	d.mu.Unlock()
	if lost > 0 {
		d.engine.config.Logger.Error("sent effects are lost: too many are waiting", "entity", key.String(), "effects", lost)
	}
	d.wake()
}

// scan reads the messages that are due from the store.
func (d *dispatcher) scan(now time.Time) {
	read := 0
	var failure error
	for m, err := range d.box.Messages(d.context, store.MessageQuery{DueBy: now}) {
		if errors.Is(err, store.ErrCorrupt) {
			d.engine.config.Logger.Error("outbox message is damaged", "error", err)
			continue // it stays where it is, and the others do not wait for it
		}
		if err != nil {
			failure = err
			break
		}
		d.mu.Lock()
		more := d.queue.Scanned(m) && !d.closing
		d.mu.Unlock()
		if read++; read%scanWakeEvery == 0 {
			d.wake()
		}
		if !more {
			break
		}
	}
	var due time.Time
	for m, err := range d.box.Messages(d.context, store.MessageQuery{AfterDue: now, After: math.MaxUint64}) {
		if errors.Is(err, store.ErrCorrupt) {
			continue
		}
		if err != nil {
			failure = errors.Join(failure, err)
		} else {
			due = m.Due
		}
		break
	}
	if failure != nil && d.context.Err() == nil {
		d.engine.config.Logger.Error("outbox could not be read", "error", failure)
	}
	d.mu.Lock()
	d.queue.ScanEnded(due, failure != nil, d.engine.config.Clock.Now())
	d.ends()
	d.mu.Unlock()
	d.wake()
}

// deliver starts the delivery of a row.
func (d *dispatcher) deliver(r *outbox.Row) {
	if r.Message.Target.IsZero() {
		go d.perform(r)
		return
	}
	d.command(r)
}

func (d *dispatcher) finished(r *outbox.Row, result outbox.Result, cause error) {
	d.mu.Lock()
	d.queue.Finished(r, result, cause, d.engine.config.Clock.Now())
	d.ends()
	d.mu.Unlock()
	d.wake()
}

// ends counts a delivery or scan that has ended, and tells close when it was the
// last. It is called under the lock.
func (d *dispatcher) ends() {
	d.running--
	d.drain()
}

func (d *dispatcher) drain() {
	if d.drained != nil && d.running == 0 && d.queue.Drained() {
		close(d.drained)
		d.drained = nil
	}
}

// perform runs the handler of an effect.
func (d *dispatcher) perform(r *outbox.Row) {
	m := r.Message
	if canary.Broken("done-before-handled") {
		d.finished(r, outbox.Done, nil)
		_ = d.handle(r)
		return
	}
	err := errors.New("handler called runtime.Goexit")
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("handler panicked: %v\n%s", v, debug.Stack())
		}
		if err != nil {
			d.engine.config.Logger.Warn("effect has failed", "effect", m.Type, "id", m.ID.String(),
				"entity", m.Source.String(), "attempt", m.Attempts+1, "error", err)
		}
		d.finished(r, performResult(err), err)
	}()
	err = d.handle(r)
}

func (d *dispatcher) handle(r *outbox.Row) error {
	m := r.Message
	rule := d.engine.effectTypes[m.Type]
	if rule == nil {
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
	return rule.perform(context.WithValue(ctx, deliveryKey{}, &Delivery{
		ID: m.ID, Attempt: int(m.Attempts) + 1, Source: m.Source,
		Causation: m.Metadata.CausationID, Correlation: m.Metadata.Correlation(), Enqueued: m.Time,
	}), message)
}

// command sends a message to the entity that is its target.
func (d *dispatcher) command(r *outbox.Row) {
	m := r.Message
	k := d.engine.kinds[m.Target.Kind]
	if k == nil {
		d.finished(r, outbox.Retry, fmt.Errorf("the engine does not run the kind %q", m.Target.Kind))
		return
	}
	message := k.options.Rules.NewCommand(m.Type)
	if message == nil {
		d.finished(r, outbox.Never, fmt.Errorf("kind %q has no rule for %s", m.Target.Kind, m.Type))
		return
	}
	if err := proto.Unmarshal(m.Payload, message); err != nil {
		d.finished(r, outbox.Never, fmt.Errorf("decode %s: %w", m.Type, err))
		return
	}
	c := d.engine.newCall(d.context, entity.OpCommand, message, nil)
	c.ID, c.Metadata = m.ID, m.Metadata
	c.Row, c.ReplyTo, c.ReplyName = m.Sequence, m.ReplyTo, m.ReplyName
	c.key = m.Target
	c.sink = func(c *call) {
		result, err := commandResult(c)
		d.finished(r, result, err)
	}
	if err := d.engine.send(k, m.Target.ID, c); err != nil {
		d.finished(r, outbox.Later, err)
	}
}

// commandResult says what the answer of an entity means for the message. An
// entity that decides removes the message with its own commit.
func commandResult(c *call) (outbox.Result, error) {
	switch c.Outcome.Status {
	case entity.StatusDone, entity.StatusRefused, entity.StatusSettled:
		return outbox.Gone, nil
	case entity.StatusUnhandled:
		return outbox.Never, failure(c.key, &c.Call, 0)
	case entity.StatusInvalid, entity.StatusPanicked, entity.StatusClaimed, entity.StatusWrongVersion:
		return outbox.Retry, failure(c.key, &c.Call, 0)
	}
	return outbox.Later, failure(c.key, &c.Call, 0)
}

// close lets deliveries under way and effects that were sent end, and what they
// have settled be stored, as long as ctx allows, and stops the dispatcher.
func (d *dispatcher) close(ctx context.Context) error {
	drained, flushed := make(chan struct{}), make(chan struct{})
	d.mu.Lock()
	d.closing = true
	d.queue.Close()
	d.drained = drained
	d.drain()
	d.mu.Unlock()
	d.wake()
	err := waitFor(ctx, drained)
	if err == nil {
		d.mu.Lock()
		d.flushed, d.pause = flushed, time.Time{}
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
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopWake != nil {
		d.stopWake()
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
