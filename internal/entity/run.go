package entity

import (
	"context"
	"encoding/binary"
	"fmt"
	"reflect"
	"runtime/debug"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/canary"
	"github.com/perdure/perdure/store"
)

// run runs one call on the state in memory. The entity is live and may submit.
func (e *Entity) run(c *Call) {
	if err := c.Ctx.Err(); err != nil && !canary.Broken("deadline-ignored") {
		e.fail(c, StatusExpired, err)
		return
	}
	if !c.begun {
		if c.Begin != nil && !c.Begin(c) {
			e.pending-- // its caller has gone, and with it the call
			return
		}
		c.begun = true
	}
	switch c.Op {
	case OpCommand:
		e.command(c)
	case OpQuery:
		e.query(c)
	case OpState:
		c.Outcome = Outcome{State: proto.Clone(e.state), Version: e.version}
		e.gate(c)
	}
}

// gate answers a call that changes nothing once all that it saw is durable and,
// on a shared log, once the store says that it is still so.
func (e *Entity) gate(c *Call) {
	switch {
	case e.opts.Shared && !canary.Broken("read-without-check"):
		w := newWork(c)
		w.Batch.Key, w.Batch.Expected = e.Key(), e.version
		e.submit(w)
	case e.flightLast != nil && !canary.Broken("query-past-the-gate"):
		e.flightLast.after.push(c)
	default:
		e.finish(c)
	}
}

func (e *Entity) submit(w *work) {
	if e.flightLast == nil {
		e.flight = w
	} else {
		e.flightLast.next = w
	}
	e.flightLast = w
	e.inFlight++
	w.Item.Lane = &e.lane
	e.shell.Submit(&w.Item)
}

func (e *Entity) query(c *Call) {
	answer := e.opts.Rules.Answer[reflect.TypeOf(c.Message)]
	if answer == nil {
		e.fail(c, StatusUnhandled, nil)
		return
	}
	info := e.info(c)
	var out Outcome
	func() {
		defer e.caught(c, "Answer", &out)
		out.Answer, out.Err = answer(info, e.state, c.Message)
		e.running = nil
	}()
	out.Version = e.version
	switch {
	case out.Status == StatusPanicked:
	case out.Err != nil:
		out.Status, out.Answer = StatusRefused, nil
	case out.Answer != nil && out.Answer.ProtoReflect().IsValid():
		out.Answer = proto.Clone(out.Answer) // it may point into the state
	}
	c.Outcome = out
	e.gate(c)
}

func (e *Entity) command(c *Call) {
	rules := e.opts.Rules.Decide
	if e.opts.Rules.Durable {
		rules = e.opts.Rules.Update
	}
	decide := rules[reflect.TypeOf(c.Message)]
	if decide == nil {
		e.fail(c, StatusUnhandled, nil)
		return
	}
	if c.Name != "" && !e.recall(c) {
		return
	}
	if c.Conditional && c.IfVersion != e.version && !canary.Broken("if-version-ignored") {
		c.Outcome = Outcome{Status: StatusWrongVersion, Version: e.version}
		e.gate(c)
		return
	}
	state := e.state
	if e.opts.Rules.Durable {
		state = proto.Clone(state)
	}
	d, out := e.decide(c, decide, state)
	recorded := c.Name != "" || c.Row != 0
	switch {
	case out.Status == StatusRefused && recorded:
		c.Outcome = out
		e.record(c)
	case out.Err != nil:
		c.Outcome = out
		e.gate(c)
	case d.Save || len(d.Events) > 0 || recorded || d.stores():
		e.persist(c, d, state)
	default:
		if err := e.encodeOutbox(c, d, nil); err != nil {
			c.Outcome = Outcome{Status: StatusInvalid, Err: err, Version: e.version}
		} else {
			c.Outcome = e.done(c, d)
		}
		e.gate(c)
	}
}

// decide runs the rule of a command, with nothing but an outcome to show for
// its failures.
func (e *Entity) decide(c *Call, rule ruleFunc, state proto.Message) (d *Decision, out Outcome) {
	info := e.info(c)
	out.Version = e.version
	defer e.caught(c, "Decide", &out)
	d, err := rule(info, state, c.Message)
	e.running = nil
	switch {
	case err != nil:
		out.Status, out.Err = StatusRefused, err
	case d == nil:
		d = &Decision{}
	}
	return d, out
}

// done is the outcome of a command that leaves the entity as it is now.
func (e *Entity) done(c *Call, d *Decision) Outcome {
	out := Outcome{Version: e.version}
	if d.Left != nil {
		out.Effects = d.Effects
	}
	if c.WantState {
		out.State = e.opts.Rules.NewState()
		proto.Merge(out.State, e.state) // cheaper than Clone, which makes the copy by reflection
	}
	return out
}

// record submits what is to be remembered of a command that was refused.
func (e *Entity) record(c *Call) {
	w := newWork(c)
	b := &w.Batch
	b.Key, b.Expected = e.Key(), e.version
	e.conclude(c, w)
	e.submit(w)
}

// conclude adds to the batch of a command what tells others of its outcome: its
// receipt, the end of the message that it comes from, and the reply to that.
func (e *Entity) conclude(c *Call, w *work) {
	b := &w.Batch
	if c.Name != "" && !canary.Broken("receipt-not-in-the-batch") {
		e.remember(c, w)
	}
	if c.Row == 0 {
		return
	}
	b.Settle = append(b.Settle, store.Settlement{Sequence: c.Row, Required: !canary.Broken("message-not-required")})
	if !c.ReplyTo.IsZero() {
		b.Enqueue = append(b.Enqueue, e.replyMessage(c, b.Next()))
	}
}

// persist encodes a decision, applies it and submits it. State is the rule's
// own copy, of a durable-state entity.
func (e *Entity) persist(c *Call, d *Decision, state proto.Message) {
	w := newWork(c)
	b := &w.Batch
	b.Key, b.Expected = e.Key(), e.version
	scratch := scratches.Get().(*[]byte)
	defer scratches.Put(scratch)
	var err error
	if e.opts.Rules.Durable {
		state, err = e.encodeSave(c, d, b, state)
	} else {
		err = e.encodeEvents(c, d, w, scratch)
	}
	if err == nil {
		err = e.encodeOutbox(c, d, b)
	}
	if err == nil {
		err = b.Prepare()
	}
	if err != nil {
		w.release()
		c.Outcome = Outcome{Status: StatusInvalid, Err: err, Version: e.version}
		e.gate(c)
		return
	}
	if e.opts.Rules.Durable {
		e.state = state
	} else if out := e.evolve(c, d, w); out.Err != nil {
		w.release()
		e.crash(c, out)
		return
	}
	e.version = b.Next()
	if n := e.opts.Rules.SnapshotEvery; n > 0 && len(b.Events) > 0 && uint64(e.version-e.snapshot) >= n {
		b.Snapshot = e.encodeState(c)
		e.snapshot = e.version // also if there is none: the next attempt is due as a snapshot would be
	}
	c.Outcome = e.done(c, d)
	e.conclude(c, w)
	e.submit(w)
}

// scratches hold payloads until [store.Batch.Prepare] has copied them.
var scratches = sync.Pool{New: func() any { return new([]byte) }}

// encodeEvents fills the batch with the events of the decision.
func (e *Entity) encodeEvents(c *Call, d *Decision, w *work, scratch *[]byte) (err error) {
	b := &w.Batch
	switch len(d.Events) {
	case 0:
		return nil
	case 1:
		b.Events = w.event[:1]
	default:
		b.Events = make([]store.Event, len(d.Events))
	}
	buf := (*scratch)[:0]
	for i, event := range d.Events {
		rule := e.opts.Rules.Evolve[reflect.TypeOf(event)]
		switch {
		case isNil(event):
			return fmt.Errorf("decision of %s: event %d is nil", typeName(c.Message), i)
		case rule == nil:
			return fmt.Errorf("decision of %s: event %s has no Evolve rule", typeName(c.Message), typeName(event))
		}
		if i == 0 {
			w.rule = rule
		}
		from := len(buf)
		buf, err = proto.MarshalOptions{}.MarshalAppend(buf, event)
		if err != nil {
			return fmt.Errorf("decision of %s: event %s: %w", typeName(c.Message), rule.Type, err)
		}
		ev := &b.Events[i]
		ev.ID = DerivedID(c.ID, uint64(i))
		ev.Type = rule.Type
		ev.Tags = d.Tags
		ev.Metadata = c.Metadata
		ev.Metadata.CausationID = c.ID
		ev.Payload = buf[from:len(buf):len(buf)]
	}
	*scratch = buf
	return nil
}

// evolve applies the events of a batch to the state.
func (e *Entity) evolve(c *Call, d *Decision, w *work) (out Outcome) {
	e.evolving, e.running = true, c
	defer e.caught(c, "Evolve after", &out)
	b, rule := &w.Batch, w.rule
	for i, event := range d.Events {
		if i > 0 {
			rule = e.opts.Rules.Evolve[reflect.TypeOf(event)]
		}
		if rule.Shares && !canary.Broken("state-shared-with-the-caller") {
			// The state must not come to share memory with what the caller or
			// the command holds.
			event = rule.New()
			if err := proto.Unmarshal(b.Events[i].Payload, event); err != nil {
				out = Outcome{Status: StatusInvalid, Err: fmt.Errorf("event %s cannot be read back: %w", rule.Type, err)}
				break
			}
		}
		rule.Apply(e.state, event)
	}
	e.evolving, e.running = false, nil
	return out
}

// encodeSave fills the batch with the new state of a durable-state entity, if
// there is one, and returns the state to go on with.
func (e *Entity) encodeSave(c *Call, d *Decision, b *store.Batch, state proto.Message) (proto.Message, error) {
	if !d.Save {
		return e.state, nil
	}
	payload, err := proto.Marshal(state)
	if err == nil && e.opts.Rules.StateShares {
		state = e.opts.Rules.NewState() // as in evolve
		err = proto.Unmarshal(payload, state)
	}
	if err != nil {
		return nil, fmt.Errorf("state %s after %s: %w", e.opts.Rules.StateType, typeName(c.Message), err)
	}
	b.Save = &store.State{
		ID: DerivedID(c.ID, 0), Type: e.opts.Rules.StateType, Metadata: c.Metadata,
		Fingerprint: e.opts.Rules.Fingerprint, Payload: payload,
	}
	b.Save.Metadata.CausationID = c.ID
	return state, nil
}

// encodeState returns a snapshot of the state in memory, or nil if it cannot be
// one: a snapshot is a convenience, and no reason to refuse a command. The shell
// is told why there is none.
func (e *Entity) encodeState(c *Call) *store.State {
	if e.foreign {
		e.notice(NoSnapshotForeign, nil)
		return nil
	}
	if n := proto.Size(e.state); n > store.PayloadBytesMax {
		e.notice(NoSnapshotSize, fmt.Errorf("the state has %d bytes, a snapshot may have %d", n, store.PayloadBytesMax))
		return nil
	}
	payload, err := proto.Marshal(e.state)
	if err != nil {
		e.notice(NoSnapshotEncoding, err)
		return nil
	}
	s := &store.State{
		ID: DerivedID(c.ID, snapshotID), Type: e.opts.Rules.StateType, Metadata: c.Metadata,
		Fingerprint: e.opts.Rules.Fingerprint, Payload: payload,
	}
	if e.opts.Rules.Fold != nil {
		s.Fold = e.opts.Rules.Fold()
	}
	s.Metadata.CausationID = c.ID
	return s
}

// notice tells the shell, once while the entity is in memory, why it has no snapshot.
func (e *Entity) notice(n Notice, err error) {
	if !e.noticed && e.opts.Notice != nil {
		e.opts.Notice(e.Key(), n, err)
	}
	e.noticed = true
}

// crash answers a command whose Evolve rule has damaged the state, and throws
// the memory away. Nothing of the command has been submitted.
func (e *Entity) crash(c *Call, out Outcome) {
	out.Version = e.version
	c.Outcome = out
	if canary.Broken("half-an-apply-kept") {
		e.gate(c)
		return
	}
	e.state = nil
	e.phase = fenced
	if e.flightLast != nil {
		e.flightLast.after.push(c)
		return
	}
	e.finish(c)
	e.reload()
}

type ruleFunc = func(ctx context.Context, state, command proto.Message) (*Decision, error)

// info prepares for running a rule of a call.
func (e *Entity) info(c *Call) *Info {
	e.running = c
	return &Info{Context: c.Ctx, Key: e.Key(), Version: e.version, Command: c.ID, shell: e.shell}
}

// caught turns a panic of a rule into an outcome. It is deferred.
func (e *Entity) caught(c *Call, rule string, out *Outcome) {
	if e.running == nil {
		return
	}
	v := recover()
	if v == nil {
		return // a Goexit, see Exited: the goroutine is going away
	}
	if canary.Broken("panic-not-caught") {
		panic(v)
	}
	e.running, e.evolving = nil, false
	*out = Outcome{Status: StatusPanicked, Version: e.version, Err: newPanic(v, rule+" "+typeName(c.Message))}
}

func newPanic(v any, rule string) *Panic {
	return &Panic{Value: v, Rule: rule, Stack: debug.Stack()}
}

// Interrupted reports whether a rule that ran has neither returned nor panicked,
// so its goroutine has been ended by [runtime.Goexit]. The shell then calls
// [Entity.Exited] before anything else.
func (e *Entity) Interrupted() bool { return e.running != nil }

// Exited is the input that the goroutine of the running rule has gone.
func (e *Entity) Exited() {
	c, evolving := e.running, e.evolving
	e.running, e.evolving = nil, false
	out := Outcome{Status: StatusPanicked, Version: e.version, Err: &Panic{Goexit: true, Rule: "rule of " + typeName(c.Message)}}
	if evolving {
		e.crash(c, out)
	} else {
		c.Outcome = out
		e.gate(c)
	}
}

func typeName(m proto.Message) string {
	if m == nil {
		return "nil"
	}
	return string(m.ProtoReflect().Descriptor().FullName())
}

// Indexes of the ids of a command's records that are not events.
const (
	snapshotID = 1 << 32
	replyID    = 1<<32 + 1
	messageID  = 1 << 33 // and those above it
	effectID   = 1 << 34 // and those above it
)

// EffectID returns the id of the index-th effect that a command has sent.
func EffectID(command store.ID, index int) store.ID {
	return DerivedID(command, effectID+uint64(index))
}

// DerivedID returns the id of the index-th record of a command: the command's
// own with other random bits, so that the records of a command that is decided
// again have the same ids again. The bits go through the finalizer of
// MurmurHash3, because ids are derived from derived ones: a message of a message
// of a message must not come back to an id that its chain has had.
func DerivedID(command store.ID, index uint64) store.ID {
	const random = 1<<62 - 1 // the low bits of a version 7 UUID, below the variant
	low := binary.BigEndian.Uint64(command[8:])
	x := low + (index+1)*0x9e3779b97f4a7c15
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	binary.BigEndian.PutUint64(command[8:], low&^random|x&random)
	return command
}
