package sim_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/core/entity"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
)

// A client calls entities, one call after the other. It sends a command with an idempotency key
// again until it knows the answer, and sometimes once more.
type client struct {
	w     *world
	name  int
	left  int // number of further calls
	seen  map[store.Key]store.Version
	op    *op // the call in progress
	again *op // the call to repeat
	tries int // number of repetitions so far
}

// triesMax bounds the repetitions of a command.
const triesMax = 8

// An op is one call, from its beginning to its end as the client sees it.
type op struct {
	w           *world
	client      *client
	node        *node
	key         store.Key
	call        *entity.Call
	started     int
	since       time.Time
	sinceStored time.Time // start of the call by the store's clock
	delivered   bool
	begun       bool
	left        bool // the client left before the call began
	early       bool // a mutant has answered it
	gaveUp      bool // the client does not wait any more
	last        bool // no other call is in progress, so it must see everything
	replies     int
	over        bool // the client will learn nothing more
	definite    bool // the answer said that nothing is stored
	status      entity.Status
}

func (o *op) String() string {
	name := "State"
	if o.call.Message != nil {
		full := string(o.call.Message.ProtoReflect().Descriptor().FullName())
		name = full[strings.LastIndex(full, ".")+1:]
	}
	if o.call.Name != "" {
		name += " " + o.call.Name
	}
	return fmt.Sprintf("%s #%d to %v", name, number(o.call.ID), o.key)
}

// number returns the number of an id in a run.
func number(id store.ID) int { return int(id[4])<<8 | int(id[5]) }

// next begins the next call.
func (c *client) next() {
	o := c.op
	c.op = nil
	if o != nil && c.repeats(o) {
		c.again = o
		c.w.later(c.begin, "client %d says it again", c.name)
		return
	}
	c.tries = 0
	if c.left == 0 {
		return
	}
	c.left--
	c.w.later(c.begin, "client %d goes on", c.name)
}

// repeats decides whether a call is repeated with its key.
func (c *client) repeats(o *op) bool {
	c.tries++
	switch {
	case o.call.Name == "" || c.tries > triesMax:
		return false
	case o.replies > 0 && (o.status == entity.StatusDone || o.status == entity.StatusRefused):
		return c.w.chance(0.3)
	}
	return c.w.chance(0.9)
}

func (c *client) begin() {
	w := c.w
	o := &op{w: w, client: c, key: w.keys[w.random.IntN(len(w.keys))], node: w.nodes[w.random.IntN(len(w.nodes))], started: w.tick()}
	o.call = &entity.Call{Ctx: background, ID: w.newID(), Owner: o, WantState: w.chance(0.7)}
	o.call.Begin = func(*entity.Call) bool {
		o.begun = !o.left
		return o.begun
	}
	if c.again != nil {
		o.sameAs(c.again)
		c.again = nil
	} else {
		c.draw(o.call)
		c.key(o)
	}
	if o.call.Op == entity.OpCommand && w.chance(0.1) {
		o.call.Conditional, o.call.IfVersion = true, c.seen[o.key]
	}
	if w.chance(0.02) {
		ended, cancel := context.WithCancel(background)
		cancel()
		o.call.Ctx = ended
	}
	w.begin(o)
	c.op = o
	w.later(func() { o.arrive() }, "client %d: %v arrives at node %d", c.name, o, o.node.name)
	if w.chance(0.05) {
		w.later(o.leave, "client %d leaves %v", c.name, o)
	}
	if o.call.Name != "" && w.chance(0.1) {
		w.later(o.giveUp, "client %d gives up %v", c.name, o)
	}
}

// key gives some commands a key. Some are the same as another client's command at the same
// time, and some are different commands under a used key.
func (c *client) key(o *op) {
	w := c.w
	if o.call.Op != entity.OpCommand || !w.chance(0.5) {
		return
	}
	other := w.clients[w.random.IntN(len(w.clients))].op
	switch x := w.random.IntN(10); {
	case other != nil && other.call.Name != "" && x < 3:
		o.sameAs(other)
		return
	case other != nil && other.call.Name != "" && x < 4:
		o.key, o.call.Name = other.key, other.call.Name
	default:
		w.names++
		o.call.Name = fmt.Sprintf("k%d", w.names)
	}
	f, err := entity.Fingerprint(o.call.Message)
	if err != nil {
		panic(err)
	}
	o.call.Fingerprint = f
}

// sameAs makes a call the same command as another one, under the same key.
func (o *op) sameAs(other *op) {
	o.key = other.key
	o.call.Op, o.call.Message = other.call.Op, other.call.Message
	o.call.Name, o.call.Fingerprint = other.call.Name, other.call.Fingerprint
}

// draw chooses the kind of a call at random.
func (c *client) draw(call *entity.Call) {
	r := c.w.random
	switch x := r.IntN(100); {
	case x < 20:
		call.Message = &testv1.Deposit{Amount: int64(1 + r.IntN(9)), Parts: uint32(1 + r.IntN(3))}
	case x < 35:
		call.Message = &testv1.Deposit{Amount: int64(1 + r.IntN(9)), Parts: uint32(r.IntN(3)), Tags: c.tags()}
	case x < 50:
		call.Message = &testv1.Withdraw{Amount: int64(1 + r.IntN(20))}
	case x < 56:
		call.Message = &testv1.Open{}
	case x < 62:
		call.Message = &testv1.Annotate{Note: &testv1.Note{Text: fmt.Sprint("note ", r.IntN(100))}}
	case x < 68:
		call.Message = &testv1.Touch{}
	case x < 72:
		how := []testv1.Misbehave_How{
			testv1.Misbehave_HOW_PANIC, testv1.Misbehave_HOW_EXIT, testv1.Misbehave_HOW_UNKNOWN_EVENT,
			testv1.Misbehave_HOW_EVOLVE_PANIC, testv1.Misbehave_HOW_EVOLVE_EXIT,
		}
		call.Message = &testv1.Misbehave{How: how[r.IntN(len(how))]}
	case x < 86:
		call.Op, call.Message = entity.OpQuery, &testv1.GetBalance{Refuse: r.IntN(5) == 0}
	case x < 90:
		call.Op, call.Message = entity.OpQuery, &testv1.GetNotes{}
	default:
		call.Op = entity.OpState
	}
}

// arrive delivers the call to its node.
func (o *op) arrive() {
	switch {
	case o.left:
	case o.node.gone || o.node.stops:
		o.definite = true
		o.end("finds its node gone")
	default:
		o.delivered = true
		o.node.activation(o.key).deliver(o.call)
	}
}

// leave ends the wait of the client, if the call has not begun.
func (o *op) leave() {
	if o.begun || o.over {
		return
	}
	o.left, o.definite = true, true
	o.end("has not begun and is left")
}

// giveUp ends the wait of the client, while the call goes on.
func (o *op) giveUp() {
	if !o.over && o.begun {
		o.gaveUp = true
		o.end("is not waited for any more")
	}
}

// lost ends the call because its node has crashed. The client does not learn the outcome.
func (o *op) lost() { o.end("is lost with its node") }

func (o *op) end(how string) {
	if o.over {
		return
	}
	o.over = true
	o.w.note("  %v %s", o, how)
	if o.client != nil {
		o.client.next()
	}
}

// reply receives the answer of an entity.
func (o *op) reply(out entity.Outcome) {
	w := o.w
	if o.replies++; o.replies > 1 {
		w.broken("%v is answered %d times", o, o.replies)
		return
	}
	o.status = out.Status
	w.note("  %v is answered: status %d, version %d", o, out.Status, out.Version)
	if o.node != nil && o.node.gone && !o.node.stops {
		w.broken("%v is answered by a node that has crashed", o)
	}
	if o.over && !o.left && !o.gaveUp {
		return
	}
	o.check(&out)
	if o.client != nil && out.Version > 0 {
		o.client.seen[o.key] = out.Version
	}
	o.end("is over")
}

// check compares an answer with the book, at the time of the answer.
func (o *op) check(out *entity.Outcome) {
	w := o.w
	written := w.disk.written[o.call.ID]
	if n := len(w.disk.books[o.key].entries); int(out.Version) > n {
		w.broken("%v is told version %d, and the store is at %d", o, out.Version, n)
		return
	}
	switch out.Status {
	case entity.StatusDone, entity.StatusRefused:
		if o.call.Name != "" {
			o.checkKept(out)
		} else if out.Repeated {
			w.broken("%v has no key and is answered as a repetition", o)
		}
	}
	switch out.Status {
	case entity.StatusDone:
		switch {
		case written != nil && !out.Repeated:
			o.checkStored(out, written)
		case o.call.Name == "":
			o.checkSeen(out)
			o.checkNothing(out)
		}
		return
	case entity.StatusRefused:
		o.definite = true
		if o.call.Name == "" {
			o.checkSeen(out)
			o.checkRefusal(out)
		}
	case entity.StatusWrongVersion:
		o.definite = true
		o.checkSeen(out)
		o.checkRefusal(out)
	case entity.StatusUnknown:
		if o.call.Op != entity.OpCommand {
			w.broken("%v, which changes nothing, is answered with an unknown outcome", o)
		}
		return
	case entity.StatusKeyReused:
		o.definite = true
		o.checkReused()
		return
	case entity.StatusClaimed:
		o.definite = true
		o.checkClaimed()
		return
	default:
		o.definite = true
		if o.last {
			w.broken("%v is answered with status %d when nothing fails: %v", o, out.Status, out.Err)
		}
		o.checkReason(out)
	}
	if w.disk.did[o.call.ID] {
		w.broken("%v is answered with status %d and is stored: %v", o, out.Status, out.Err)
	}
}

// checkReason checks that a failure had a cause between the beginning and the end of the call.
func (o *op) checkReason(out *entity.Outcome) {
	w := o.w
	_, misbehaves := o.call.Message.(*testv1.Misbehave)
	var ok bool
	switch out.Status {
	case entity.StatusConflict: // other activations were faster, each time but the first since the call began
		rivals := 0
		for _, wr := range w.disk.books[o.key].writes {
			if wr.at >= o.started && wr.by != o.node {
				rivals++
			}
		}
		ok = rivals >= w.limits.Conflicts
	case entity.StatusFault: // the store failed
		ok = w.failed >= o.started || w.ill.deadens(o.key)
	case entity.StatusExpired:
		ok = o.call.Ctx.Err() != nil
	case entity.StatusOverloaded: // the limit of calls was reached
		ok = o.node != nil && o.node.activation(o.key).core.Pending() >= w.limits.Calls
	case entity.StatusClosed:
		ok = o.node == nil || o.node.stops
	case entity.StatusInvalid, entity.StatusPanicked, entity.StatusUnhandled:
		ok = misbehaves
	}
	if !ok {
		w.broken("%v is answered with status %d for no reason: %v", o, out.Status, out.Err)
	}
}

// checkStored checks the answer to a command that has stored something.
func (o *op) checkStored(out *entity.Outcome, written *writing) {
	w := o.w
	if written.at < o.started {
		w.broken("%v was stored before it began", o)
	}
	if out.Version != written.last || out.Position != written.position && !w.disk.books[o.key].durable {
		w.broken("%v is told version %d at position %v, and is stored as version %d at position %v",
			o, out.Version, out.Position, written.last, written.position)
		return
	}
	o.checkState(out)
}

// checkSeen checks that the store held the answer's state at some time between the beginning
// and the end of the call.
func (o *op) checkSeen(out *entity.Outcome) {
	w := o.w
	entries := w.disk.books[o.key].entries
	v := int(out.Version)
	if v < len(entries) && (entries[v].at < o.started || o.last) {
		w.broken("%v shows version %d, which was over before it began: the store is at %d", o, v, len(entries))
		return
	}
	o.checkState(out)
	bk := w.disk.books[o.key]
	switch q := o.call.Message.(type) {
	case *testv1.GetBalance:
		s := bk.state(out.Version)
		want := &testv1.Balance{Amount: s.GetBalance(), Operations: s.GetOperations()}
		if out.Status == entity.StatusDone && (q.GetRefuse() || !proto.Equal(out.Answer, want)) {
			w.broken("%v shows %v at version %d, want %v", o, out.Answer, v, want)
		}
	case *testv1.GetNotes:
		if want := bk.state(out.Version); out.Status == entity.StatusDone && !proto.Equal(out.Answer, want) {
			w.broken("%v shows %v at version %d, want %v", o, out.Answer, v, want)
		}
	}
}

func (o *op) checkState(out *entity.Outcome) {
	if out.State == nil {
		if out.Status == entity.StatusDone && (o.call.Op == entity.OpState || o.call.Op == entity.OpCommand && o.call.WantState) {
			o.w.broken("%v is answered without a state", o)
		}
		return
	}
	want := o.w.disk.books[o.key].state(out.Version)
	if got := out.State.(*testv1.Account); !proto.Equal(got, want) {
		o.w.broken("%v shows %s at version %d, want %s", o, stateText(got), out.Version, stateText(want))
	}
}

// checkNothing checks a call that is done and has stored nothing.
func (o *op) checkNothing(out *entity.Outcome) {
	if o.call.Op != entity.OpCommand || o.w.fault != "" {
		return
	}
	bk := o.w.disk.books[o.key]
	states, ok := expect(bk.durable, uint64(out.Version), bk.state(out.Version), o.call.Message)
	rows, _ := leaves(o.call.Message)
	if _, bad := o.call.Message.(*testv1.Misbehave); bad || !ok || len(states) > 0 || rows > 0 && !o.w.disk.did[o.call.ID] {
		o.w.broken("%v is done and has stored nothing", o)
	}
}

// checkRefusal checks that the state in a refusal was a reason to refuse.
func (o *op) checkRefusal(out *entity.Outcome) {
	w := o.w
	if out.Status == entity.StatusWrongVersion {
		if !o.call.Conditional || o.call.IfVersion == out.Version {
			w.broken("%v is refused for its version %d at version %d", o, o.call.IfVersion, out.Version)
		}
		return
	}
	if w.fault != "" {
		return
	}
	switch m := o.call.Message.(type) {
	case *testv1.GetBalance:
		if m.GetRefuse() {
			return
		}
	case *testv1.Withdraw:
		if w.disk.books[o.key].state(out.Version).GetBalance() < m.GetAmount() {
			return
		}
	}
	w.broken("%v is refused at version %d for no reason: %v", o, out.Version, out.Err)
}
