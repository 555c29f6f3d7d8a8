package sim_test

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/entity"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
)

// A client calls entities, one call after the other.
type client struct {
	w    *world
	name int
	left int // calls to come
	seen map[store.Key]store.Version
	op   *op // the call in progress
}

// An op is one call, from its beginning to its end as the client sees it.
type op struct {
	w         *world
	client    *client
	node      *node
	key       store.Key
	call      *entity.Call
	started   int
	delivered bool
	begun     bool
	left      bool // its client has left before it began
	early     bool // a twin has answered it
	last      bool // nothing else is going on, so it must see everything
	replies   int
	over      bool // the client knows all that it will ever know
	definite  bool // it was told that nothing is stored
	status    entity.Status
}

func (o *op) String() string {
	name := "State"
	if o.call.Message != nil {
		full := string(o.call.Message.ProtoReflect().Descriptor().FullName())
		name = full[strings.LastIndex(full, ".")+1:]
	}
	return fmt.Sprintf("%s #%d to %v", name, int(o.call.ID[4])<<8|int(o.call.ID[5]), o.key)
}

// next begins the next call.
func (c *client) next() {
	c.op = nil
	if c.left == 0 {
		return
	}
	c.left--
	c.w.later(c.begin, "client %d goes on", c.name)
}

func (c *client) begin() {
	w := c.w
	o := &op{w: w, client: c, key: w.keys[w.random.IntN(len(w.keys))], node: w.nodes[w.random.IntN(len(w.nodes))], started: w.tick()}
	o.call = &entity.Call{Ctx: background, ID: w.newID(), Owner: o, WantState: w.chance(0.7)}
	o.call.Begin = func(*entity.Call) bool {
		o.begun = !o.left
		return o.begun
	}
	c.draw(o.call)
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
}

// draw makes a call one of many sorts.
func (c *client) draw(call *entity.Call) {
	r := c.w.random
	switch x := r.IntN(100); {
	case x < 35:
		call.Message = &testv1.Deposit{Amount: int64(1 + r.IntN(9)), Parts: uint32(1 + r.IntN(3))}
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

// arrive brings the call to its node.
func (o *op) arrive() {
	switch {
	case o.left:
	case o.node.gone || o.node.stops:
		o.definite = true
		o.end("finds its node gone")
	default:
		o.delivered = true
		o.node.cell(o.key).deliver(o.call)
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

// lost ends the call because its node has crashed: nobody knows what became of it.
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

// reply is the answer of an entity.
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
	if o.over && !o.left {
		return
	}
	o.check(&out)
	if o.client != nil && out.Version > 0 {
		o.client.seen[o.key] = out.Version
	}
	o.end("is over")
}

// check holds an answer against the book, at the moment in which it is given.
func (o *op) check(out *entity.Outcome) {
	w := o.w
	written := w.disk.written[o.call.ID]
	if n := len(w.disk.books[o.key].entries); int(out.Version) > n {
		w.broken("%v is told version %d, and the store is at %d", o, out.Version, n)
		return
	}
	switch out.Status {
	case entity.StatusDone:
		if written == nil {
			o.checkSeen(out)
			o.checkNothing(out)
			return
		}
		o.checkStored(out, written)
		return
	case entity.StatusRefused, entity.StatusWrongVersion:
		o.definite = true
		o.checkSeen(out)
		o.checkRefusal(out)
	case entity.StatusUnknown:
		if o.call.Op != entity.OpCommand {
			w.broken("%v, which changes nothing, is answered with an unknown outcome", o)
		}
		return
	default:
		o.definite = true
	}
	if written != nil {
		w.broken("%v is answered with status %d and is stored at version %d", o, out.Status, written.last)
	}
	if o.last {
		w.broken("%v is answered with status %d when nothing fails: %v", o, out.Status, out.Err)
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

// checkSeen checks that the answer is what a look at the store would have shown
// at some moment between the beginning and the end of the call.
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
	if _, bad := o.call.Message.(*testv1.Misbehave); bad || !ok || len(states) > 0 {
		o.w.broken("%v is done and has stored nothing", o)
	}
}

// checkRefusal checks that the state a refusal speaks of was a reason to refuse.
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
