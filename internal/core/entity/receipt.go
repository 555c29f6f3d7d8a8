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

// Deleting a receipt writes to a place in the store that the command would not touch otherwise.
// Receipts that are too old or too many therefore wait until they are a share of all (one in
// forgetShare). They are then deleted together, at most forgetMax with one command.
const (
	forgetShare = 16
	forgetMax   = 64
)

// fingerprintBytes is the number of SHA-256 bytes that identify a command's body.
const fingerprintBytes = 16

// receipts are the idempotency keys that an entity remembers. The first command with a key
// reads them from the store. From then on they are complete, so a new key costs no look-up. An
// entity whose commands have no keys has no receipts.
//
//  1. known holds a name exactly if a receipt of that name is stored or is in an item in
//     flight. A receipt in flight is pending.
//  2. order holds each name of known once, sorted by place. Receipts are deleted from its
//     beginning.
//  3. The times in order come from the store's clock and do not go back. If the clock did go
//     back, a receipt has the latest time before it.
//
// Versions decide which receipt is older and whether a receipt may have been deleted; within
// one version, counts decide. There is one exception: several engines that write to one log may
// have refused commands at one version without knowing of each other. Then the times within
// that version decide, and such a store keeps these times from going back. In all other cases
// time decides only whether a receipt is too old, and the store's clock is compared only with
// itself. If that clock is set back, or is another machine's clock after a failover, receipts
// are kept for longer.
type receipts struct {
	known  map[string]receipt
	order  []receiptAge
	last   uint64    // highest Order of a receipt
	newest time.Time // latest commit time of the receipts and of other commits of the entity
}

type receipt struct {
	fingerprint [fingerprintBytes]byte
	pending     bool
}

type receiptAge struct {
	name  string
	place receiptPlace
	time  time.Time // commit time; zero while the receipt is pending
}

// A receiptPlace is the rank of a receipt among the receipts of its entity. A receipt that is
// stored later has a later place, except when two engines have refused commands at one version
// without knowing of each other.
type receiptPlace struct {
	version store.Version
	order   uint64
}

func placeOf(r *store.Receipt) receiptPlace { return receiptPlace{r.Version, r.Order} }

func (p receiptPlace) before(q receiptPlace) bool {
	return p.version < q.version || p.version == q.version && p.order < q.order
}

// Fingerprint returns a hash of the type and body of a command.
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

// Answer makes the outcome of a repeated call from the receipt of the first call. If the
// receipt does not contain the state, load builds it by reading the entity into a fold.
func (e *Entity) Answer(c *Call, r *store.Receipt, refusal func(*store.Refusal) error, load func(*Fold) error) (out Outcome, err error) {
	if !bytes.Equal(r.Fingerprint, c.Fingerprint[:]) {
		return out, store.ErrNotFound // another engine has deleted the receipt and used the key again
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
		if err = load(fold); err == nil || errors.Is(err, ErrPastEnd) {
			out.State, err = fold.State()
		}
	}
	if err != nil {
		err = fmt.Errorf("read the state of version %d: %w", r.Version, err)
	}
	return out, err
}

// ReceiptsLoaded is the input that the shell has read the receipts. They need no answers, see
// [Heads].
func (e *Entity) ReceiptsLoaded(list []*store.Receipt, err error) {
	if e.phase != loadingReceipts {
		return // the memory has been dropped since the read began
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
	e.ensureExtras().receipts = r
}

// sortReceipts sorts receipts of an entity, oldest first. Receipts from before the Order field
// existed have no Order; their times decide.
func sortReceipts(list []*store.Receipt, shared bool) {
	slices.SortStableFunc(list, func(a, b *store.Receipt) int {
		order, times := cmp.Compare(a.Order, b.Order), a.Time.Compare(b.Time)
		if shared {
			order, times = times, order
		}
		return cmp.Or(cmp.Compare(a.Version, b.Version), order, times)
	})
}

// expiredShare is the divisor for the extra time, one eighth of the retention time, for which
// an entity at rest keeps its receipts. An uncertain command does not run again after the
// retention time, so whenever it does run again its receipt, if there was one, still exists.
const expiredShare = 8

// Expired returns the names of the receipts that an entity at rest need not keep, the oldest
// first. The parameter now is a time of the store's clock.
func Expired(list []*store.Receipt, shared bool, now time.Time, keep time.Duration) (names []string) {
	sortReceipts(list, shared)
	for _, r := range list {
		if now.Sub(r.Time) < keep+keep/expiredShare {
			break // later receipts are younger, whatever the clock has shown since
		}
		names = append(names, r.Name)
	}
	return names
}

// Heads reads the receipts of an entity without their answers. Each answer may be as large as
// the state.
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

// reached records a time that the store's clock has shown, and returns the latest recorded
// time.
func (rs *receipts) reached(t time.Time) time.Time {
	if t.After(rs.newest) {
		rs.newest = t
	}
	return rs.newest
}

// stored records the time of a stored commit, and marks its receipt, if any, as durable.
func (rs *receipts) stored(ic *inFlightCommit) {
	latest := rs.reached(ic.Result.Time)
	if len(ic.Batch.Receipts) == 0 {
		return
	}
	name := ic.Batch.Receipts[0].Name
	if r, ok := rs.known[name]; ok && r.pending {
		r.pending = false
		rs.known[name] = r
	}
	for i := range rs.order { // the receipt is one of the last
		if a := &rs.order[len(rs.order)-1-i]; a.name == name {
			a.time = latest
			break
		}
	}
}

// ReplyLoaded is the input that the shell has read the answer to a repeated call. The outcome is
// that of the first call, whose command id is first.
func (e *Entity) ReplyLoaded(first store.ID, out Outcome, err error) {
	if e.phase != loadingReply {
		return // the memory has been thrown away since the read began
	}
	e.phase = live
	c := e.waiting.pop()
	if errors.Is(err, store.ErrNotFound) { // another engine has deleted the receipt
		e.ensureExtras().receipts = nil
		e.waiting.pushFront(c)
		return
	}
	gone := errors.Is(err, ErrGone)
	if err != nil && !gone {
		e.fail(c, StatusUnknown, err) // the call has been answered, but the answer could not be read
		return
	}
	if first != c.ID && e.mayBeForgotten(c) {
		e.fail(c, StatusUnknown, nil) // the answer belongs to another attempt, and this one may be stored too
		return
	}
	c.Outcome = out
	c.Outcome.Repeated = true
	if gone {
		c.Outcome.Status, c.Outcome.Err = StatusGone, err
	}
	if out.Position == 0 { // the first call made no events: everything that it saw is durable by now
		c.Outcome.Position = e.position
	}
	e.reply(c)
}

// checkReceipts looks up a keyed command among the receipts. It returns false if the command must
// not be decided now.
func (e *Entity) checkReceipts(c *Call) bool {
	if e.extras == nil || e.extras.receipts == nil {
		e.putBack(c)
		e.phase = loadingReceipts
		return false
	}
	known, ok := e.extras.receipts.known[c.Name]
	switch {
	case !ok && e.mayBeForgotten(c):
		e.fail(c, StatusUnknown, nil)
		return false
	case !ok:
		c.uncertain = false // no receipt: the command has not been applied
		e.clocks(c)
		return true
	case known.pending:
		c.repeatsInFlight = true // run it again when the first one is durable or has failed
		e.running = nil
		e.flightLast.after.push(c)
	case known.fingerprint != c.Fingerprint && e.mayBeForgotten(c):
		e.fail(c, StatusUnknown, nil) // the key had expired, and another engine has used it for another command
	case known.fingerprint != c.Fingerprint:
		e.fail(c, StatusKeyReused, nil)
	default:
		e.putBack(c)
		e.phase = loadingReply
	}
	return false
}

// putBack puts the running call before all other calls of callers that wait. It is the first to
// run when the shell has read what it needs.
func (e *Entity) putBack(c *Call) {
	e.running = nil
	if e.extras != nil {
		i := &e.extras.inboxes[fromCaller]
		i.append(&e.waiting)
		e.waiting, i.calls = i.calls, calls{}
	}
	e.waiting.pushFront(c)
}

// mayBeForgotten reports whether a command is uncertain and later commands may have deleted the
// receipt of its attempt. Receipts are deleted in the order of their places. A remaining
// receipt with a place before the attempt's therefore proves that the attempt's receipt was not
// deleted. The entity's first receipt ever proves the same, and so does an empty list. All of
// this holds only within the retention time since the first attempt. The engine's own clock
// measures that time and is compared with no other clock, see sinceTried.
func (e *Entity) mayBeForgotten(c *Call) bool {
	if !c.uncertain {
		return false
	}
	if e.sinceTried(c) >= e.opts.Rules.ReceiptsFor {
		return true // the engine may have deleted the receipts of an entity at rest
	}
	order := e.extras.receipts.order
	if len(order) == 0 {
		return false
	}
	oldest := order[0].place
	if e.opts.Shared && oldest.version == c.receipt.version && len(order) >= e.opts.Rules.ReceiptsMax {
		return true // other engines may have refused that many commands; their counts prove nothing here
	}
	return oldest.order != firstOrder && !oldest.before(c.receipt)
}

// sinceTried returns the time since the first attempt of a command, or more. The time of day
// may have been set back since then, and a steady clock may stand still while the machine
// sleeps; the longer of the two counts. An estimate that is too long makes the core answer with
// StatusUnknown, which is safe.
func (e *Entity) sinceTried(c *Call) time.Duration {
	d := e.shell.Now().Round(0).Sub(c.tried)
	if e.opts.Elapsed != nil {
		d = max(d, e.opts.Elapsed()-c.triedAfter)
	}
	return d
}

// clocks reads the clocks for the receipt of a command. The clocks are user code, which may end
// the goroutine, so the core calls them before it applies anything of the command.
func (e *Entity) clocks(c *Call) {
	c.tried = e.shell.Now().Round(0)
	if e.opts.Elapsed != nil {
		c.triedAfter = e.opts.Elapsed()
	}
	if e.opts.StoreTime != nil && !e.opts.Shared {
		// If other processes write too, the clock of the store may have been set back since the
		// core read it. Receipts stored after that would look old at once.
		e.extras.receipts.reached(e.opts.StoreTime())
	}
}

// firstOrder is the Order of the first receipt of an entity.
const firstOrder = 1

// addReceipt adds the receipt of a keyed command to its batch, and deletes receipts that are too
// old or too many.
func (e *Entity) addReceipt(c *Call, ic *inFlightCommit) {
	b, rs := &ic.Batch, e.extras.receipts
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
	ic.receipt[0] = store.Receipt{
		// The batch may outlive the call: the engine may give up a commit that hangs.
		Name: c.Name, CommandID: c.ID, Fingerprint: bytes.Clone(c.Fingerprint[:]),
		Version: b.Next(), Order: rs.last, // the store adds the position, if there are events
	}
	rs.known[c.Name] = receipt{fingerprint: c.Fingerprint, pending: true}
	rs.order = append(rs.order, receiptAge{name: c.Name, place: placeOf(&ic.receipt[0])})
	b.Receipts = ic.receipt[:]
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

// mayForget reports whether the i-th oldest receipt is too old, or would be one too many after
// the next new one.
func (e *Entity) mayForget(i int, now time.Time) bool {
	order, rules := e.extras.receipts.order, e.opts.Rules
	if i >= len(order) {
		return false
	}
	return len(order)-i >= rules.ReceiptsMax || !order[i].time.IsZero() && now.Sub(order[i].time) >= rules.ReceiptsFor
}
