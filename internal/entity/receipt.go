package entity

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/canary"
	"github.com/perdure/perdure/store"
)

// Forgetting a receipt writes to a place in the store that the command would not
// touch otherwise. So receipts that are too old or too many wait until they are
// a share of all, and go together, at most so many with one command.
const (
	forgetShare = 16
	forgetMax   = 64
)

// fingerprintBytes is how much of a SHA-256 identifies a command's body.
const fingerprintBytes = 16

// receipts are the idempotency keys that an entity remembers. They are read
// from the store with the first command that has a key, and are complete from
// then on, so that a new key costs no look-up. An entity whose commands have no
// keys has none.
//
//  1. known holds a name exactly if a receipt of that name is stored, or is in
//     an item in flight; then it is pending.
//  2. order holds the names of known once each, oldest first.
type receipts struct {
	known map[string]receipt
	order []receiptAge
}

type receipt struct {
	fingerprint [fingerprintBytes]byte
	pending     bool
}

type receiptAge struct {
	name    string
	version store.Version
	time    time.Time
}

// Fingerprint identifies the type and body of a command.
func Fingerprint(m proto.Message) ([fingerprintBytes]byte, error) {
	var f [fingerprintBytes]byte
	scratch := scratches.Get().(*[]byte)
	defer scratches.Put(scratch)
	b := append(append((*scratch)[:0], typeName(m)...), 0)
	b, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(b, m)
	if err != nil {
		return f, err
	}
	*scratch = b
	sum := sha256.Sum256(b)
	copy(f[:], sum[:])
	return f, nil
}

// WantsReceipts reports whether the entity waits for its receipts. The shell
// then reads them and calls [Entity.Recalled].
func (e *Entity) WantsReceipts() bool { return e.phase == recalling }

// WantsReceipt returns the call that repeats an answered one, if there is one.
// The shell then reads the receipt and, for a call that wants the state, builds
// that, and calls [Entity.Repeated].
func (e *Entity) WantsReceipt() *Call {
	if e.phase != repeating {
		return nil
	}
	return e.waiting.first
}

// Recalled is the input that the receipts have been read.
func (e *Entity) Recalled(list []*store.Receipt, err error) {
	if e.phase != recalling {
		return // the memory has been thrown away meanwhile
	}
	e.phase = live
	if err != nil {
		e.fail(e.waiting.pop(), StatusFault, err)
		return
	}
	slices.SortStableFunc(list, func(a, b *store.Receipt) int { // one commit gives many the same time
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Version, b.Version))
	})
	r := &receipts{known: make(map[string]receipt, len(list))}
	for _, s := range list {
		var f [fingerprintBytes]byte
		copy(f[:], s.Fingerprint)
		r.known[s.Name] = receipt{fingerprint: f}
		r.order = append(r.order, receiptAge{s.Name, s.Version, s.Time})
	}
	e.more().receipts = r
}

// Repeated is the input that the answer to a repeated call has been read. The
// outcome is that of the first call, whose id is first.
func (e *Entity) Repeated(first store.ID, out Outcome, err error) {
	if e.phase != repeating {
		return // the memory has been thrown away meanwhile
	}
	e.phase = live
	c := e.waiting.pop()
	if errors.Is(err, store.ErrNotFound) { // another engine has forgotten it
		e.more().receipts = nil
		e.waiting.pushFront(c)
		return
	}
	gone := errors.Is(err, ErrGone)
	if err != nil && !gone {
		e.fail(c, StatusUnknown, err) // it has been answered, but how is not known
		return
	}
	if first != c.ID && e.mayBeForgotten(c) {
		e.fail(c, StatusUnknown, nil) // that answer is about another attempt, and this one may be stored too
		return
	}
	c.Outcome = out
	c.Outcome.Repeated = true
	if gone {
		c.Outcome.Status, c.Outcome.Err = StatusGone, err
	}
	if out.Position == 0 { // it had no events: all that it saw is durable by now
		c.Outcome.Position = e.position
	}
	e.reply(c)
}

// recall looks a keyed command up among the receipts. It returns false if the
// command is not to be decided now.
func (e *Entity) recall(c *Call) bool {
	if e.rare == nil || e.rare.receipts == nil {
		e.waiting.pushFront(c)
		e.phase = recalling
		return false
	}
	known, ok := e.rare.receipts.known[c.Name]
	switch {
	case !ok && e.mayBeForgotten(c):
		e.fail(c, StatusUnknown, nil)
		return false
	case !ok:
		c.uncertain = false // without a receipt it has not been applied
		return true
	case known.pending && !canary.Broken("repeat-past-the-gate"):
		c.again = true // once the first one is durable, or has failed
		e.flightLast.after.push(c)
	case known.fingerprint != c.Fingerprint && e.mayBeForgotten(c):
		e.fail(c, StatusUnknown, nil) // the key was free again, and another engine has used it anew
	case known.fingerprint != c.Fingerprint && !canary.Broken("key-without-its-body"):
		e.fail(c, StatusKeyReused, nil)
	default:
		e.waiting.pushFront(c)
		e.phase = repeating
	}
	return false
}

// mayBeForgotten reports whether a command is in doubt and its receipt, if there
// was one, may have been taken out by later ones. Receipts go in the order of
// versions, whatever the clocks of the engines say, so one from before the attempt
// shows that the window reaches back to it. Clocks matter where receipts go by
// their age, and may differ by half of it.
func (e *Entity) mayBeForgotten(c *Call) bool {
	rs := e.rare.receipts
	return c.uncertain && !canary.Broken("window-not-considered") && len(rs.order) > 0 && rs.order[0].version >= c.expected &&
		(len(rs.order) >= e.opts.Rules.ReceiptsMax || e.shell.Now().Sub(c.decided) >= e.opts.Rules.ReceiptsFor/2)
}

// remember adds the receipt of a keyed command to its batch, and takes out what
// is too old or too much.
func (e *Entity) remember(c *Call, w *work) {
	b, rs := &w.Batch, e.rare.receipts
	now := e.shell.Now()
	if group := min(max(len(rs.order)/forgetShare, 1), forgetMax); e.mayForget(group-1, now) {
		for len(b.Forget) < forgetMax && e.mayForget(0, now) && !rs.known[rs.order[0].name].pending {
			name := rs.order[0].name
			b.Forget = append(b.Forget, name)
			delete(rs.known, name)
			rs.order = rs.order[1:]
		}
	}
	c.decided = now
	rs.known[c.Name] = receipt{fingerprint: c.Fingerprint, pending: true}
	rs.order = append(rs.order, receiptAge{c.Name, b.Next(), now})
	w.receipt[0] = store.Receipt{
		Name: c.Name, CommandID: c.ID, Fingerprint: c.Fingerprint[:], Version: b.Next(), // and the store adds the position, if there are events
	}
	b.Receipts = w.receipt[:]
	r := &b.Receipts[0]
	if c.Outcome.Status == StatusRefused {
		r.Refusal = e.opts.Refusal(c.Outcome.Err)
	}
	if e.opts.Rules.KeepsReplies && r.Refusal == nil {
		if reply, err := proto.Marshal(e.state); err == nil && len(reply) <= store.PayloadBytesMax {
			r.ReplyType, r.Reply = e.opts.Rules.StateType, reply
		}
	}
}

// mayForget reports whether the i-th oldest receipt is too old, or one too many
// if a new one comes.
func (e *Entity) mayForget(i int, now time.Time) bool {
	order, rules := e.rare.receipts.order, e.opts.Rules
	return i < len(order) && (len(order)-i >= rules.ReceiptsMax || now.Sub(order[i].time) >= rules.ReceiptsFor)
}

// remembered marks the receipt of a command as durable.
func (e *Entity) remembered(c *Call) {
	if c == nil || c.Name == "" || e.rare == nil || e.rare.receipts == nil {
		return
	}
	if r, ok := e.rare.receipts.known[c.Name]; ok && r.pending {
		r.pending = false
		e.rare.receipts.known[c.Name] = r
	}
}
