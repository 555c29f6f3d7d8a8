package entity

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

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
//  2. order holds the names of known once each, by their places. Receipts are
//     forgotten from its beginning.
//  3. The times in order are those of the store and do not go back: where the
//     store's clock did, a receipt has the latest time before it.
//
// Which receipt is older, and whether one may have been forgotten, follows from
// versions, and within a version from counts. Only where several engines write to a
// log, and may have refused commands at one version without knowing of each other,
// the times within that version decide, which such a store keeps from going back.
// Otherwise time decides nothing but when a receipt is too old, and there the store's
// clock is compared with itself alone. It may be set back, or be that of another
// machine after a failover: then receipts are kept for longer.
type receipts struct {
	known  map[string]receipt
	order  []receiptAge
	last   uint64    // highest Order
	newest time.Time // of the receipts, and of other commits of the entity
}

type receipt struct {
	fingerprint [fingerprintBytes]byte
	pending     bool
}

type receiptAge struct {
	name  string
	place receiptPlace
	time  time.Time // zero while it is pending
}

// A receiptPlace says where a receipt stands among those of its entity. A receipt
// that is stored later has a later place, but for those of two engines that
// have refused commands at one version without knowing of each other.
type receiptPlace struct {
	version store.Version
	order   uint64
}

func placeOf(r *store.Receipt) receiptPlace { return receiptPlace{r.Version, r.Order} }

func (p receiptPlace) before(q receiptPlace) bool {
	return p.version < q.version || p.version == q.version && p.order < q.order
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

// Answer makes the outcome of a repeated call from the receipt of the first one. A
// state that is not in the receipt is built by load, which reads the entity into a fold.
func (e *Entity) Answer(c *Call, r *store.Receipt, refusal func(*store.Refusal) error, load func(*Fold) error) (out Outcome, err error) {
	if !bytes.Equal(r.Fingerprint, c.Fingerprint[:]) {
		return out, store.ErrNotFound // another engine has forgotten it and used the key again
	}
	out = Outcome{Version: r.Version, Position: r.Position}
	switch {
	case r.Refusal != nil:
		out.Status, out.Err = StatusRefused, refusal(r.Refusal)
	case !c.WantState:
	case r.ReplyType != "":
		out.State, err = e.opts.Rules.ReadState(r.ReplyType, r.Reply)
	default:
		fold := e.Until(r.Version)
		if err = load(fold); err == nil || errors.Is(err, ErrEnough) {
			out.State, err = fold.State()
		}
	}
	if err != nil {
		err = fmt.Errorf("read the state of version %d: %w", r.Version, err)
	}
	return out, err
}

// Recalled is the input that the receipts have been read. Their answers are not
// needed, see [Heads].
func (e *Entity) Recalled(list []*store.Receipt, err error) {
	if e.phase != recalling {
		return // the memory has been thrown away since the read began
	}
	e.phase = live
	if err != nil {
		e.fail(e.waiting.pop(), StatusFault, err)
		return
	}
	sortReceipts(list, e.opts.Shared)
	r := &receipts{known: make(map[string]receipt, len(list))}
	for _, s := range list {
		var f [fingerprintBytes]byte
		copy(f[:], s.Fingerprint)
		r.known[s.Name] = receipt{fingerprint: f}
		r.last = max(r.last, s.Order)
		r.order = append(r.order, receiptAge{s.Name, placeOf(s), r.reached(s.Time)})
	}
	e.more().receipts = r
}

// sortReceipts sorts receipts of an entity, oldest first. Receipts that were written
// before there was an Order have none; then their times decide.
func sortReceipts(list []*store.Receipt, shared bool) {
	slices.SortStableFunc(list, func(a, b *store.Receipt) int {
		order, times := cmp.Compare(a.Order, b.Order), a.Time.Compare(b.Time)
		if shared {
			order, times = times, order
		}
		return cmp.Or(cmp.Compare(a.Version, b.Version), order, times)
	})
}

// expiredShare is the part of the time for which receipts are kept that those of an
// entity at rest are kept for longer. A command in doubt is not run again once that time
// is over, so it does so while its receipt, if there is one, is still there.
const expiredShare = 8

// Expired returns the names of the receipts that an entity at rest need not keep at a
// time of the store's clock, the oldest first.
func Expired(list []*store.Receipt, shared bool, now time.Time, keep time.Duration) (names []string) {
	sortReceipts(list, shared)
	for _, r := range list {
		if now.Sub(r.Time) < keep+keep/expiredShare {
			break // the receipts after it are younger, whatever the clock has shown since
		}
		names = append(names, r.Name)
	}
	return names
}

// Heads reads the receipts of an entity without their answers, which may be as
// large as the state each.
func Heads(receipts iter.Seq2[*store.Receipt, error]) (list []*store.Receipt, err error) {
	for r, err := range receipts {
		if err != nil {
			return nil, err
		}
		list = append(list, &store.Receipt{
			Name: r.Name, Fingerprint: r.Fingerprint, Version: r.Version, Order: r.Order, Time: r.Time,
		})
	}
	return list, nil
}

// reached notes a time that the store's clock has shown, and returns the latest.
func (rs *receipts) reached(t time.Time) time.Time {
	if t.After(rs.newest) {
		rs.newest = t
	}
	return rs.newest
}

// stored notes the time of a work that is stored, and that its receipt, if it has
// one, is durable.
func (rs *receipts) stored(w *work) {
	latest := rs.reached(w.Result.Time)
	if len(w.Batch.Receipts) == 0 {
		return
	}
	name := w.Batch.Receipts[0].Name
	if r, ok := rs.known[name]; ok && r.pending {
		r.pending = false
		rs.known[name] = r
	}
	for i := range rs.order { // it is one of the last
		if a := &rs.order[len(rs.order)-1-i]; a.name == name {
			a.time = latest
			break
		}
	}
}

// Repeated is the input that the answer to a repeated call has been read. The
// outcome is that of the first call, whose id is first.
func (e *Entity) Repeated(first store.ID, out Outcome, err error) {
	if e.phase != repeating {
		return // the memory has been thrown away since the read began
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
		e.running = nil
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
		e.clocks(c)
		return true
	case known.pending:
		c.again = true // once the first one is durable, or has failed
		e.running = nil
		e.flightLast.after.push(c)
	case known.fingerprint != c.Fingerprint && e.mayBeForgotten(c):
		e.fail(c, StatusUnknown, nil) // the key was free again, and another engine has used it anew
	case known.fingerprint != c.Fingerprint:
		e.fail(c, StatusKeyReused, nil)
	default:
		e.running = nil
		e.waiting.pushFront(c)
		e.phase = repeating
	}
	return false
}

// mayBeForgotten reports whether a command is in doubt and its receipt, if there
// was one, may have been taken out by later ones. Receipts are forgotten in the order
// of their places. So one with a place before that of the attempt shows that the
// attempt has not been forgotten; and so does the first receipt that the entity
// ever had, or has had since all were too old. For that, the engine's clock is asked
// how long ago the first attempt was, and no other is compared with it: see sinceTried.
func (e *Entity) mayBeForgotten(c *Call) bool {
	if !c.uncertain {
		return false
	}
	if e.sinceTried(c) >= e.opts.Rules.ReceiptsFor {
		return true // the receipts of entities at rest may have been removed
	}
	order := e.rare.receipts.order
	if len(order) == 0 {
		return false
	}
	oldest := order[0].place
	if e.opts.Shared && oldest.version == c.receipt.version && len(order) >= e.opts.Rules.ReceiptsMax {
		return true // other engines may have refused that many, and their counts say nothing here
	}
	return oldest.order != firstOrder && !oldest.before(c.receipt)
}

// sinceTried returns how long ago the first attempt of a command was, or more. The time of
// day may have been set back since, and a steady clock may stand still while the machine
// sleeps, so the longer one counts. A doubt that is taken for older than it is, is told.
func (e *Entity) sinceTried(c *Call) time.Duration {
	d := e.shell.Now().Round(0).Sub(c.tried)
	if e.opts.Elapsed != nil {
		d = max(d, e.opts.Elapsed()-c.triedAfter)
	}
	return d
}

// clocks asks the clocks for what the receipt of a command needs. They are user code,
// which may end the goroutine, so they are asked before anything of the command is applied.
func (e *Entity) clocks(c *Call) {
	c.tried = e.shell.Now().Round(0)
	if e.opts.Elapsed != nil {
		c.triedAfter = e.opts.Elapsed()
	}
	if e.opts.StoreTime != nil && !e.opts.Shared {
		// Where others write too, the clock of the store may have been set back since
		// it was heard, and receipts stored after that would look old at once.
		e.rare.receipts.reached(e.opts.StoreTime())
	}
}

// firstOrder is the Order of the first receipt of an entity.
const firstOrder = 1

// remember adds the receipt of a keyed command to its batch, and takes out what
// is too old or too much.
func (e *Entity) remember(c *Call, w *work) {
	b, rs := &w.Batch, e.rare.receipts
	now := rs.newest
	if group := min(max(len(rs.order)/forgetShare, 1), forgetMax); e.mayForget(group-1, now) {
		for len(b.Forget) < forgetMax && e.mayForget(0, now) && !rs.known[rs.order[0].name].pending {
			name := rs.order[0].name
			b.Forget = append(b.Forget, name)
			delete(rs.known, name)
			rs.order = rs.order[1:]
		}
	}
	rs.last++
	w.receipt[0] = store.Receipt{
		// The batch may outlive the call: a commit that hangs is given up before it ends.
		Name: c.Name, CommandID: c.ID, Fingerprint: bytes.Clone(c.Fingerprint[:]),
		Version: b.Next(), Order: rs.last, // and the store adds the position, if there are events
	}
	rs.known[c.Name] = receipt{fingerprint: c.Fingerprint, pending: true}
	rs.order = append(rs.order, receiptAge{name: c.Name, place: placeOf(&w.receipt[0])})
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
	if i >= len(order) {
		return false
	}
	return len(order)-i >= rules.ReceiptsMax || !order[i].time.IsZero() && now.Sub(order[i].time) >= rules.ReceiptsFor
}
