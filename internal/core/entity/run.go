package entity

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/scribble"
	"github.com/perdure/perdure/store"
)

// run runs one call on the state in memory. The entity must be live and allowed to submit. From
// here on the call is the running one until it is answered or in a list, so user code cannot
// make the core lose it.
func (e *Entity) run(c *Call) {
	e.running = c
	switch e.begin(c) {
	case beginFailed:
		e.fail(c, c.Outcome.Status, c.Outcome.Err)
		return
	case beginCanceled:
		e.running = nil
		e.pending-- // its caller has gone and expects no reply
		return
	}
	switch c.Op {
	case OpCommand:
		e.command(c)
	case OpQuery:
		e.query(c)
	case OpState:
		c.Outcome = Outcome{State: proto.Clone(e.state), Version: e.version}
		e.answerWhenDurable(c)
	}
}

// A beginning is the result of begin: whether the call runs.
type beginning uint8

const (
	beginFailed   beginning = iota // the outcome of the call has the reason
	beginCanceled                  // the caller has gone
	begun
)

// begin decides whether a call still has to run. The context and the message are partly user
// code, so begin is guarded like a rule.
func (e *Entity) begin(c *Call) (how beginning) {
	e.guard = guarded
	defer e.caught(c, "context of")
	err := c.Ctx.Err()
	switch {
	case err != nil:
		c.Outcome = Outcome{Status: StatusExpired, Err: err}
	case c.Begin == nil || c.Begin(c):
		how = begun
	default:
		how = beginCanceled
	}
	e.guard = unguarded
	return how
}

// answerWhenDurable answers a call that changes nothing. It waits until everything that the call
// saw is durable and, on a shared log, until the store confirms that the version is still current.
func (e *Entity) answerWhenDurable(c *Call) {
	switch {
	case e.opts.Shared:
		ic := newCommit(c)
		ic.Batch.Key, ic.Batch.Expected = e.Key(), e.version
		e.submit(ic)
	case e.flightLast != nil:
		e.running = nil
		e.flightLast.after.push(c)
	default:
		e.finish(c)
	}
}

func (e *Entity) submit(ic *inFlightCommit) {
	if e.flightLast == nil {
		e.flight = ic
	} else {
		e.flightLast.next = ic
	}
	e.flightLast = ic
	e.inFlight++
	if e.joinsGroups(ic.call) {
		ic.flight = &e.groups[ic.call.source()]
		*ic.flight++
	}
	e.running = nil
	ic.Item.Pipeline = &e.pipeline
	e.shell.Submit(&ic.Item)
}

func (e *Entity) query(c *Call) {
	answer := e.opts.Rules.Answer[reflect.TypeOf(c.Message)]
	if answer == nil {
		e.fail(c, StatusUnhandled, nil)
		return
	}
	e.answer(c, answer)
	e.answerWhenDurable(c)
}

// answer runs the rule of a query and makes the outcome of the call.
func (e *Entity) answer(c *Call, rule func(ctx context.Context, state, query proto.Message) (proto.Message, error)) {
	e.guard = guarded
	defer e.caught(c, "Answer")
	c.Outcome = Outcome{Version: e.version}
	answer, err := rule(e.info(c, e.version), e.state, c.Message)
	switch {
	case err != nil:
		e.refuse(c, "Answer", err)
	case isNil(answer):
		c.Outcome.Answer = answer
	default:
		c.Outcome.Answer = proto.Clone(answer) // the answer may point into the state
	}
	e.guard = unguarded
}

// refuse makes the outcome of a rule that has returned an error. It calls methods of the error,
// so the caller guards it like the rule.
func (e *Entity) refuse(c *Call, rule string, err error) {
	out := &c.Outcome
	if isNilError(err) {
		out.Status = StatusInvalid
		out.Err = fmt.Errorf("%s has returned a nil %T as its error, which is not equal to nil (return nil itself)", rule, err)
		return
	}
	out.Status, out.Err = StatusRefused, err
	if e.opts.Rules.Refuse == nil {
		return
	}
	refusal, mistake := e.opts.Rules.Refuse(err)
	if out.Err = refusal; mistake != nil {
		out.Status, out.Err = StatusInvalid, mistake
	}
}

// isNilError reports whether an error is a typed nil, such as a nil pointer, slice or map in a
// variable of type error.
func isNilError(err error) bool {
	switch v := reflect.ValueOf(err); v.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Func, reflect.Chan:
		return v.IsNil()
	default:
		return false
	}
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
	if c.Name != "" && !e.checkReceipts(c) {
		return
	}
	if c.Conditional && c.IfVersion != e.version {
		c.Outcome = Outcome{Status: StatusWrongVersion, Version: e.version}
		e.answerWhenDurable(c)
		return
	}
	state := e.state
	if e.opts.Rules.Durable {
		state = proto.Clone(state)
	}
	d := e.decide(c, decide, state, c.Message, e.version)
	if scribble.On && d != nil {
		d = d.copyForScribble()
		defer d.scribble()
	}
	recorded := c.Name != "" || c.OutboxSequence != 0
	switch {
	case c.Outcome.Status == StatusRefused && recorded:
		e.persistRefusal(c)
	case d == nil:
		e.answerWhenDurable(c)
	case d.Save || len(d.Events) > 0 || recorded || d.stores():
		e.persist(c, d, state)
	default:
		if _, effects, ok := e.encode(c, d, nil, state); ok {
			e.done(c, effects)
		}
		e.answerWhenDurable(c)
	}
}

// decide runs the rule of a command on a state at a version. If it returns nil, the outcome of
// the call has the reason. The message is the call's own, or a copy.
func (e *Entity) decide(c *Call, rule ruleFunc, state, message proto.Message, version store.Version) (decided *Decision) {
	e.guard = guarded
	name := "Decide"
	if e.opts.Rules.Durable {
		name = "Update"
	}
	defer e.caught(c, name)
	c.Outcome = Outcome{Version: version}
	d, err := rule(e.info(c, version), state, message)
	switch {
	case err != nil:
		e.refuse(c, name, err)
	case d == nil:
		decided = &Decision{}
	default:
		decided = d
	}
	e.guard = unguarded
	return decided
}

// done completes the outcome of a command that leaves the entity in its present state.
func (e *Entity) done(c *Call, effects []proto.Message) {
	out := &c.Outcome
	out.Version, out.Effects = e.version, effects
	if c.WantState {
		out.State = e.opts.Rules.NewState()
		proto.Merge(out.State, e.state) // cheaper than Clone, which copies by reflection
	}
}

// persistRefusal submits the batch of a refused command: its receipt, and the completion of its
// message.
func (e *Entity) persistRefusal(c *Call) {
	ic := newCommit(c)
	b := &ic.Batch
	b.Key, b.Expected = e.Key(), e.version
	e.addOutcome(c, ic)
	e.submit(ic)
}

// addOutcome adds to the batch of a command the records that report its outcome: its receipt, the
// completion of the outbox message that it comes from, and the reply to that message.
func (e *Entity) addOutcome(c *Call, ic *inFlightCommit) {
	b := &ic.Batch
	if c.Name != "" {
		e.addReceipt(c, ic)
	}
	if c.OutboxSequence == 0 {
		return
	}
	b.Settle = append(b.Settle, store.Settlement{Sequence: c.OutboxSequence, Required: true})
	if c.Next != nil && !setsTimer(b, c.Next.Timer) {
		b.Enqueue = append(b.Enqueue, *c.Next)
	}
	if !c.ReplyTo.IsZero() {
		b.Enqueue = append(b.Enqueue, e.replyMessage(c, b.Next()))
	}
}

// setsTimer reports whether a batch sets or cancels a timer.
func setsTimer(b *store.Batch, name string) bool {
	return slices.Contains(b.Cancel, name) ||
		slices.ContainsFunc(b.Enqueue, func(m store.Message) bool { return m.Timer == name })
}

// persist encodes a decision, applies it and submits it. The parameter state is the rule's own
// copy, for a durable-state entity.
func (e *Entity) persist(c *Call, d *Decision, state proto.Message) {
	ic := newCommit(c)
	b := &ic.Batch
	b.Key, b.Expected = e.Key(), e.version
	state, effects, ok := e.encode(c, d, ic, state)
	switch {
	case !ok:
		ic.release()
		e.answerWhenDurable(c)
		return
	case e.opts.Rules.Durable:
		if e.state = state; b.Save != nil {
			e.measured(len(b.Save.Payload))
		}
	case !e.evolve(c, d, ic):
		ic.release()
		e.dropDamagedState(c)
		return
	}
	e.version = b.Next()
	for i := range b.Events {
		e.grow(len(b.Events[i].Payload))
	}
	if n := e.opts.Rules.SnapshotEvery; n > 0 && len(b.Events) > 0 && uint64(e.version-e.snapshot) >= n {
		b.Snapshot = e.takeSnapshot(c)
		e.snapshot = e.version // also without a snapshot: the next attempt comes when a snapshot would be due
	}
	e.done(c, effects)
	e.addOutcome(c, ic)
	e.submit(ic)
}

// encode checks a decision as a whole and fills the batch of a commit with the decision's
// records. It applies nothing yet. It returns the next state of a durable-state entity, and
// copies of the effects to send. The commit is nil if there is nothing to store. If encode
// returns false, the outcome of the call has the reason. Messages are partly user code, so
// encode is guarded like the rule.
func (e *Entity) encode(c *Call, d *Decision, ic *inFlightCommit, state proto.Message) (next proto.Message, effects []proto.Message, ok bool) {
	e.guard = guarded
	defer e.caught(c, "decision of")
	var b *store.Batch
	var scratch *[]byte
	var err error
	if ic != nil {
		b = &ic.Batch
		if e.opts.Rules.Durable {
			next, err = e.encodeSave(c, d, b, state)
		} else {
			scratch = scratches.Get().(*[]byte) // if a panic keeps it from the pool, it becomes garbage
			err = e.encodeEvents(c, d, ic, scratch)
		}
	}
	if err == nil && d.SideEffects != nil {
		effects, err = e.encodeSideEffects(c, d, b)
	}
	if err == nil && b != nil {
		err = b.Prepare()
	}
	if scratch != nil {
		scratches.Put(scratch)
	}
	e.guard = unguarded
	if err != nil {
		c.Outcome.Status, c.Outcome.Err = StatusInvalid, err
	}
	return next, effects, err == nil
}

// scratches is a pool of buffers for payloads until [store.Batch.Prepare] has copied them.
var scratches = sync.Pool{New: func() any { return new([]byte) }}

// encodeEvents fills the batch with the events of the decision.
func (e *Entity) encodeEvents(c *Call, d *Decision, ic *inFlightCommit, scratch *[]byte) (err error) {
	b := &ic.Batch
	switch len(d.Events) {
	case 0:
		return nil
	case 1:
		b.Events = ic.event[:1]
	default:
		b.Events = make([]store.Event, len(d.Events))
	}
	buf := (*scratch)[:0]
	for i, event := range d.Events {
		rule := e.opts.Rules.Evolve[reflect.TypeOf(event)]
		switch {
		case isNil(event):
			return fmt.Errorf("event %d is nil", i)
		case rule == nil:
			return fmt.Errorf("event %s has no Evolve rule", typeName(event))
		}
		if i == 0 {
			ic.rule = rule
		}
		from := len(buf)
		buf, err = proto.MarshalOptions{}.MarshalAppend(buf, event)
		if err != nil {
			return fmt.Errorf("event %s: %w", rule.Type, err)
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

// evolve applies the events of a batch to the state. If it returns false, the state is damaged,
// and the outcome of the call has the reason.
func (e *Entity) evolve(c *Call, d *Decision, ic *inFlightCommit) (ok bool) {
	e.guard = evolving
	defer e.caught(c, "Evolve after")
	b, rule := &ic.Batch, ic.rule
	for i, event := range d.Events {
		if i > 0 {
			rule = e.opts.Rules.Evolve[reflect.TypeOf(event)]
		}
		if rule.Shares {
			// The state must not share memory with an event that the caller or the command
			// holds.
			event = rule.New()
			if err := proto.Unmarshal(b.Events[i].Payload, event); err != nil {
				e.guard = unguarded
				c.Outcome.Status, c.Outcome.Err = StatusInvalid, fmt.Errorf("event %s cannot be read back: %w", rule.Type, err)
				return false
			}
		}
		rule.Apply(e.state, event)
	}
	e.guard = unguarded
	return true
}

// encodeSave fills the batch with the new state of a durable-state entity, if the state has
// changed, and returns the state to continue with.
func (e *Entity) encodeSave(c *Call, d *Decision, b *store.Batch, state proto.Message) (proto.Message, error) {
	if !d.Save {
		return e.state, nil
	}
	payload, err := proto.Marshal(state)
	if err == nil {
		state, err = e.ownState(state, payload)
	}
	if err != nil {
		return nil, fmt.Errorf("state %s: %w", e.opts.Rules.StateType, err)
	}
	b.Save = &store.State{
		ID: DerivedID(c.ID, 0), Type: e.opts.Rules.StateType, Metadata: c.Metadata,
		Fingerprint: e.opts.Rules.Fingerprint, Payload: payload,
	}
	b.Save.Metadata.CausationID = c.ID
	return state, nil
}

// ownState returns a copy of the state that a rule has made. The rule may keep a reference to
// its own, and the state may hold parts of the command.
func (e *Entity) ownState(made proto.Message, payload []byte) (proto.Message, error) {
	state := e.opts.Rules.NewState()
	if e.opts.Rules.StateShares {
		return state, proto.Unmarshal(payload, state)
	}
	proto.Merge(state, made) // numbers and strings only
	return state, nil
}

// dropDamagedState answers a command whose Evolve rule has damaged the state, and drops the memory.
// Nothing of the command has been submitted.
func (e *Entity) dropDamagedState(c *Call) {
	c.Outcome.Version = e.version
	e.state = nil
	e.phase = invalidated
	if e.flightLast != nil {
		e.running = nil
		e.flightLast.after.push(c)
		return
	}
	e.finish(c)
	e.reload()
}

type ruleFunc = func(ctx context.Context, state, command proto.Message) (*Decision, error)

// info returns the Info for the rule of a call that runs on the state at a version.
func (e *Entity) info(c *Call, version store.Version) *Info {
	i := &Info{Context: c.Ctx, Key: e.Key(), Version: version, Command: c.ID, shell: e.shell}
	if !c.Metadata.IsZero() {
		m := c.Metadata // the rule may keep its context for longer than the call lasts
		i.Metadata = &m
	}
	return i
}

// typeName returns the full protobuf name of a message, even if the message's methods panic.
func typeName(m proto.Message) (name string) {
	if m == nil {
		return "nil"
	}
	defer func() {
		if recover() != nil {
			name = fmt.Sprintf("%T", m)
		}
	}()
	return string(m.ProtoReflect().Descriptor().FullName())
}
