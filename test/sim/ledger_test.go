package sim_test

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/perdure/perdure/internal/core/outbox"
	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
	"github.com/perdure/perdure/store"
)

// A ledger is the book of all side effects of commands.
type ledger struct {
	w     *world
	left  map[store.ID]*left
	rows  map[uint64]*left
	order []*left        // rows in the order in which they were stored
	sent  map[string]int // counts of effects that are tried once, by command and index

	orphans bool // the batch being stored comes from a node that has crashed
}

// A left is the history of one row of the outbox. It is kept permanently.
type left struct {
	message  store.Message
	handled  int    // number of times that its handler has done its work
	decided  int    // time at which its target decided it; 0 if it has not
	closed   int    // time at which the row was removed; 0 while it exists
	how      string // the reason for the removal
	tried    uint32
	parked   bool
	halted   bool        // parked, and later rows of its segment wait
	freed    int         // time at which an operator decided about the halted row; 0 if none has
	by       *dispatcher // the dispatcher through which the operator decided
	gaveUp   bool        // its last attempt failed
	unparked bool        // it was parked once, and later rows have overtaken it
	orphan   bool        // it reached the store after its node had crashed, so only a rescue finds it
}

func newLedger(w *world) ledger {
	return ledger{w: w, left: make(map[store.ID]*left), rows: make(map[uint64]*left), sent: make(map[string]int)}
}

func (l *left) String() string {
	m := &l.message
	name := m.Type[strings.LastIndex(m.Type, ".")+1:]
	if m.Timer != "" {
		name = fmt.Sprintf("timer %s", m.Timer)
	}
	to := "a handler"
	if !m.Target.IsZero() {
		to = m.Target.String()
	}
	return fmt.Sprintf("row %d (%s of %v to %s)", m.Sequence, name, m.Source, to)
}

func (l *left) close(at int, how string) { l.closed, l.how = at, how }

// add records the rows that a batch cancels and adds.
func (g *ledger) add(b *store.Batch, r *store.Result, at int) {
	for _, name := range b.Cancel {
		g.endTimer(b.Key, name, at, "cancelled")
	}
	for i := range b.Enqueue {
		l := &left{message: b.Enqueue[i], orphan: g.orphans}
		m := &l.message
		m.Source, m.Time = b.Key, r.Time
		m.Sequence = r.Sequence - uint64(len(b.Enqueue)-1-i)
		if m.Timer != "" {
			g.endTimer(b.Key, m.Timer, at, "replaced")
		}
		if old := g.left[m.ID]; old != nil {
			g.w.broken("%v is left a second time as %v", old, l)
			return
		}
		g.left[m.ID], g.rows[m.Sequence] = l, l
		g.order = append(g.order, l)
		g.w.note("  %v is left", l)
	}
}

func (g *ledger) endTimer(source store.Key, name string, at int, how string) {
	for _, l := range g.order {
		if l.closed == 0 && l.message.Source == source && l.message.Timer == name {
			l.close(at, how)
			g.w.note("  %v is %s", l, how)
		}
	}
}

// settle records the rows that a batch completes or changes, and checks that it may do so.
func (g *ledger) settle(b *store.Batch, at int) {
	for _, s := range b.Settle {
		l := g.rows[s.Sequence]
		switch {
		case l == nil:
			g.w.broken("row %d is settled and was never stored", s.Sequence)
		case s.IfParked:
			g.free(l, s.Message, at)
		case s.Required && !s.Conditional:
			g.decide(l, b, at)
		case l.closed != 0:
		case s.Message != nil:
			g.change(l, s.Message)
		default:
			l.close(at, "handled")
			g.w.note("  %v is over", l)
			if l.handled == 0 {
				g.w.broken("%v is settled, and nobody has handled it", l)
			}
		}
	}
}

// free records an operator's decision about a parked message: to deliver it again, as m, or to
// drop it.
func (g *ledger) free(l *left, m *store.Message, at int) {
	if !l.parked || l.closed != 0 {
		g.w.broken("an operator has decided about %v, which is not parked", l)
		return
	}
	if l.halted {
		l.freed, l.by = at, g.w.disk.writer.dispatcher
		g.w.freed++
	} else {
		l.unparked = true // later rows have overtaken it
	}
	l.parked, l.halted = false, false
	if m == nil {
		l.close(at, "dropped")
		g.w.note("  %v is dropped", l)
		return
	}
	l.tried, l.message.Owner, l.message.Open = 0, m.Owner, m.Open
	g.w.note("  %v is no longer parked", l)
}

// decide records the completion of a message by the commit of its target.
func (g *ledger) decide(l *left, b *store.Batch, at int) {
	switch m := &l.message; {
	case l.closed != 0:
		g.w.broken("%v is decided, and it was %s before", l, l.how)
	case m.Target != b.Key:
		g.w.broken("%v is decided by %v", l, b.Key)
	case m.Due.After(g.w.latest):
		g.w.broken("%v is decided, and is due at %v; no clock has shown more than %v", l, m.Due, g.w.latest)
	}
	g.checkOrder(l, "decided", func(o *left) bool { return o.decided == 0 })
	l.decided = at
	l.close(at, "decided")
	g.w.note("  %v is decided", l)
}

// change records a failed attempt.
func (g *ledger) change(l *left, m *store.Message) {
	if m.LastError == "" && m.Attempts == l.tried {
		l.message.Owner, l.message.Open = m.Owner, m.Open
		g.w.note("  %v is claimed by engine %d", l, m.Owner)
		return
	}
	l.tried, l.parked, l.halted, l.message.Owner = m.Attempts, m.Parked, m.Halted, m.Owner
	if m.Parked {
		g.w.note("  %v is parked after %d attempts", l, m.Attempts)
	}
	switch {
	case m.ID != l.message.ID || m.LastError == "":
		g.w.broken("%v is changed to id %v with the error %q", l, m.ID, m.LastError)
	case m.Parked && !m.Target.IsZero():
		g.w.broken("%v is parked: %s", l, m.LastError)
	case m.Parked && !l.gaveUp:
		g.w.broken("%v is parked after %d attempts", l, m.Attempts)
	}
}

// checkOrder checks that no row is handled before the earlier rows of its segment, also if several
// nodes deliver. Timers have no order.
func (g *ledger) checkOrder(l *left, how string, missing func(*left) bool) {
	m := &l.message
	if l.unparked || m.Unordered || m.Timer != "" {
		return
	}
	for _, o := range g.order {
		if o == l {
			return
		}
		if o.precedes(l) && o.closed == 0 && (!o.parked && !o.gaveUp || g.w.order()) && !o.unparked && missing(o) {
			g.w.broken("%v is %s before %v", l, how, o)
		}
	}
}

// precedes reports whether the earlier row l is in the segment of o.
func (l *left) precedes(o *left) bool {
	m, b := &l.message, &o.message
	return b.Source == m.Source && b.Target == m.Target && (b.Type == m.Type || !m.Target.IsZero()) &&
		!m.Unordered && m.Timer == "" && !b.Unordered && b.Timer == ""
}

// checkHalted checks, when the delivery of a message begins, that no earlier row of its segment is
// halted. An engine may continue if it has handled that row itself before another engine took
// it over and halted it.
func (g *ledger) checkHalted(r *outbox.Row, b *dispatcher) {
	l := g.rows[r.Message.Sequence]
	for _, o := range g.order {
		if l == nil || o == l {
			return
		}
		if o.halted && o.precedes(l) && !b.did[o.message.Sequence] {
			g.w.broken("node %d delivers %v, and %v is halted", b.node.name, l, o)
		}
	}
}

// checkReply checks that a batch which decides a message with a reply contains that reply, and
// reports whether it does.
func (g *ledger) checkReply(b *store.Batch, c *said, ok bool) bool {
	for _, s := range b.Settle {
		l := g.rows[s.Sequence]
		if l == nil || !s.Required || s.Conditional || l.message.ReplyTo.IsZero() {
			continue
		}
		if len(b.Enqueue) == 0 {
			g.w.broken("%v asks for a reply and gets none", l)
			return false
		}
		last := &b.Enqueue[len(b.Enqueue)-1]
		var reply perdurev1.Reply
		decode(last.Payload, &reply)
		if last.Target != l.message.ReplyTo || reply.GetName() != l.message.ReplyName || store.ID(reply.GetMessageId()) != l.message.ID ||
			reply.GetVersion() != uint64(b.Next()) || (reply.GetRefusal() == nil) != ok {
			g.w.broken("the reply to %v, which is %v, is %v to %v", l, c, &reply, last.Target)
		}
		return true
	}
	return false
}

// checkJoinedReply checks a batch which decides several messages, of which one makes the given
// version. It checks that the batch contains the reply to that message, and reports whether it
// does.
func (g *ledger) checkJoinedReply(b *store.Batch, l *left, version store.Version) bool {
	if l.message.ReplyTo.IsZero() {
		return false
	}
	for i := range b.Enqueue {
		m := &b.Enqueue[i]
		var reply perdurev1.Reply
		if m.Target != l.message.ReplyTo || m.Type != string(reply.ProtoReflect().Descriptor().FullName()) {
			continue
		}
		if decode(m.Payload, &reply); store.ID(reply.GetMessageId()) != l.message.ID {
			continue
		}
		if reply.GetName() != l.message.ReplyName || reply.GetVersion() != uint64(version) || reply.GetRefusal() != nil {
			g.w.broken("the reply to %v at version %d is %v", l, version, &reply)
		}
		return true
	}
	g.w.broken("%v asks for a reply and gets none", l)
	return false
}

// perform records that a handler does its work.
func (g *ledger) perform(r *outbox.Row, b *dispatcher) {
	if r.Message.Sequence == 0 {
		g.once(r, b)
		return
	}
	l := g.rows[r.Message.Sequence]
	if l == nil || l.message.ID != r.Message.ID {
		g.w.broken("message %v is handled, and no row %d of the outbox has that id", r.Message.ID, r.Message.Sequence)
		return
	}
	if l.handled == 0 {
		g.checkOrder(l, "handled", func(o *left) bool { return o.handled == 0 })
	}
	l.handled++
	g.w.note("  %v is handled", l)
}

// once checks an effect that is tried once: its command is durable, the effect was not tried
// before, and the effects of earlier versions did not come later.
func (g *ledger) once(r *outbox.Row, b *dispatcher) {
	text := r.Value.(*wrapperspb.StringValue).GetValue()
	id, source := r.Message.ID, r.Message.Source
	var command string
	var version store.Version
	var place int
	if _, err := fmt.Sscanf(text, "%s %d %d", &command, &version, &place); err != nil {
		panic(err)
	}
	c := g.w.disk.said(id)
	g.w.note("  the effect %q of %v is performed", text, c)
	if command != id.String() || c == nil {
		g.w.broken("the effect %q is performed for %v", text, c)
		return
	}
	rows, _ := leaves(c.message)
	states, _ := expect(false, 0, g.w.disk.books[source].state(0), c.message)
	if len(states)+rows > 0 && !g.w.disk.did[id] {
		g.w.broken("the effect %q is performed, and %v is not stored", text, c)
	}
	if int(version) > len(g.w.disk.books[source].entries) {
		g.w.broken("the effect %q is performed on a version that is not stored", text)
	}
	effect := fmt.Sprint(command, place)
	if g.sent[effect]++; g.sent[effect] > 1 {
		g.w.broken("the effect %q of %v is performed twice", text, c)
	}
	if version < b.sent[source] {
		g.w.broken("the effect %q of %v is performed after one on version %d", text, c, b.sent[source])
	}
	b.sent[source] = version
}

// rescued returns the rows that only a sweep can have delivered: orphans, rows of an engine
// that is gone, rows of an engine that has not learned of an operator's decision through
// another engine, and all rows behind such a row.
func (g *ledger) rescued() map[*left]bool {
	type segment struct {
		source, target store.Key
		handler        string
	}
	lost, rows, freed := make(map[segment]bool), make(map[*left]bool), make(map[segment][]*left)
	for _, l := range g.order {
		m := &l.message
		key := segment{source: m.Source, target: m.Target}
		if m.Target.IsZero() {
			key.handler = m.Type
		}
		if l.freed != 0 {
			freed[key] = append(freed[key], l)
		}
		if l.closed != 0 || l.parked {
			continue
		}
		alive := m.Open || slices.ContainsFunc(g.w.nodes, func(n *node) bool { return n.dispatcher.owner == m.Owner })
		if l.orphan || !alive || slices.ContainsFunc(freed[key], func(o *left) bool { return g.unheard(o, l) }) {
			lost[key] = true
		}
		rows[l] = lost[key]
	}
	return rows
}

// unheard reports whether the engine that delivers a row has made no sweep since an operator
// decided, through another engine, about a halted row.
func (g *ledger) unheard(o, l *left) bool {
	return slices.ContainsFunc(g.w.nodes, func(n *node) bool {
		return (l.message.Open || n.dispatcher.owner == l.message.Owner) && n.dispatcher != o.by && n.dispatcher.swept < o.freed
	})
}

// behindHalted reports whether a row waits for a halted row of its segment.
func (g *ledger) behindHalted(l *left) bool {
	for _, o := range g.order {
		if o == l {
			return false
		}
		if o.halted && o.precedes(l) {
			return true
		}
	}
	return false
}

// auditOrphans checks that no other row waits, except rows behind a halted one.
func (g *ledger) auditOrphans() {
	rescued := g.rescued()
	for _, l := range g.order {
		if l.closed == 0 && !l.parked && !rescued[l] && !g.behindHalted(l) {
			g.w.broken("%v waits for a sweep: it was handled %d times and tried %d times", l, l.handled, l.tried)
		}
	}
}

// audit checks that no row is left at the end.
func (g *ledger) audit() {
	for _, l := range g.order {
		m := &l.message
		switch {
		case l.how == "dropped":
		case l.closed == 0 && !l.parked:
			g.w.broken("%v is stuck: it was handled %d times and tried %d times", l, l.handled, l.tried)
		case !m.Target.IsZero() && m.Timer == "" && l.decided == 0:
			g.w.broken("%v was %s and never decided", l, l.how)
		case m.Target.IsZero() && l.handled == 0 && !l.parked:
			g.w.broken("%v was %s and never handled", l, l.how)
		}
	}
	pending, parked := 0, 0
	for _, isParked := range []bool{false, true} {
		for m, err := range g.w.disk.log.Messages(background, store.MessageQuery{Parked: isParked}) {
			if err != nil {
				panic(err)
			}
			if l := g.rows[m.Sequence]; l == nil || l.closed != 0 || l.parked != isParked {
				g.w.broken("the log holds row %d, parked: %t, and the book does not", m.Sequence, isParked)
			}
			if isParked {
				parked++
			} else {
				pending++
			}
		}
	}
	if pending > 0 {
		g.w.broken("the log holds %d rows that wait, and %d that are parked", pending, parked)
	}
}
