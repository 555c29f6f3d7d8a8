package sim_test

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/core/commit"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// errIO is an error that leaves the outcome unknown.
var errIO = errors.New("input/output error")

// A disk is the store together with a book of its commits and their times. Every answer is
// compared with this book.
type disk struct {
	w       *world
	log     *memory.Log
	books   map[store.Key]*book
	written map[store.ID]*writing // writes by command id
	did     map[store.ID]bool     // commands that changed or enqueued something
	outbox  ledger
	keys    map[keyName]*promise
	claims  map[string][]holding // holdings by value, oldest first
	writer  *node                // the node whose group is being stored
}

// A book is the history of one entity.
type book struct {
	durable  bool
	entries  []entry // entries for version 1, 2, …
	snapshot store.Version
	uses     []*use  // uses of keys, in the order of their commits
	writes   []write // commits that others could conflict with
}

type entry struct {
	command store.ID
	state   *testv1.Account // state after the version
	at      int             // time at which the version became durable
}

// A write is one commit about an entity.
type write struct {
	at int
	by *node // nil for another writer
}

// A writing is the data that one command has stored.
type writing struct {
	first, last store.Version
	position    store.Position
	at          int
}

func newDisk(w *world) *disk {
	d := &disk{
		w: w, books: make(map[store.Key]*book), written: make(map[store.ID]*writing), did: make(map[store.ID]bool),
		outbox: newLedger(w), keys: make(map[keyName]*promise), claims: make(map[string][]holding),
	}
	options := []memory.Option{memory.WithClock(w.storeClock), memory.WithPartitions(w.parts)}
	if w.shared {
		options = append(options, memory.Shared())
	}
	d.log = memory.New(options...)
	for _, k := range w.keys {
		d.books[k] = &book{durable: w.rules[k.Kind].Durable}
	}
	return d
}

// A verdict is the way in which the store handles one group.
type verdict uint8

const (
	stores        verdict = iota
	refuses               // nothing is stored, and the store reports that
	failsBefore           // nothing is stored, and the outcome is unknown
	failsAfter            // all is stored, and the outcome is unknown
	isOvertaken           // another writer comes first
	isMiscounting         // all is stored, with one result too many
)

// verdict chooses the verdict on the next group at random.
func (d *disk) verdict() verdict {
	if !d.w.faulty {
		return stores
	}
	switch x := d.w.random.Float64() / d.w.harm; {
	case x < 0.04:
		return refuses
	case x < 0.08:
		return failsBefore
	case x < 0.13:
		return failsAfter
	case x < 0.20 && d.w.shared:
		return isOvertaken
	case x < 0.21:
		return isMiscounting
	}
	return stores
}

// commit stores a group or not, according to the verdict.
func (d *disk) commit(group []*commit.Item, v verdict) ([]store.Result, error) {
	if v != stores {
		d.w.failed = d.w.tick()
	}
	switch v {
	case refuses:
		return nil, fmt.Errorf("commit: %w", store.ErrNotStored)
	case failsBefore:
		return nil, errIO
	case isOvertaken:
		for _, i := range group {
			if !i.Batch.Key.IsZero() {
				d.overtake(&i.Batch)
				break
			}
		}
	}
	results := d.store(group)
	switch v {
	case failsAfter:
		return nil, errIO
	case isMiscounting:
		return append(results, store.Result{}), nil
	}
	return results, nil
}

// store commits a group and records it in the book.
func (d *disk) store(group []*commit.Item) []store.Result {
	var results []store.Result
	if d.w.mutant.storesBehind {
		for _, i := range group {
			results = append(results, d.commitNow(d.twisted(&i.Batch))...)
		}
	} else {
		batches := make([]*store.Batch, len(group))
		for n, i := range group {
			batches[n] = d.twisted(&i.Batch)
		}
		results = d.commitNow(batches...)
	}
	refused := make(map[*commit.Pipeline]bool)
	for n, i := range group {
		switch {
		case results[n].Err != nil:
			refused[i.Pipeline] = true
			d.w.note("  %v expecting version %d is refused: %v", i.Batch.Key, i.Batch.Expected, results[n].Err)
		case refused[i.Pipeline]:
			d.w.broken("a batch of %v is stored behind a refused one", i.Batch.Key)
		default:
			d.enter(&i.Batch, &results[n])
			d.tell(&i.Batch)
		}
	}
	return results
}

// tell notifies the nodes that share the log of messages in it, like a store that can be
// watched. It does so even if the node that stored them does not know the outcome.
func (d *disk) tell(b *store.Batch) {
	if !d.w.shared || len(b.Enqueue) == 0 {
		return
	}
	for _, n := range d.w.nodes {
		if n != d.writer {
			d.w.later(n.dispatcher.changed, "node %d hears that the log has grown", n.name)
		}
	}
}

// foretell returns the results that a successful commit would have, for a mutant that does not
// wait for the commit.
func (d *disk) foretell(group []*commit.Item) []store.Result {
	results := make([]store.Result, len(group))
	last := uint64(len(d.outbox.order))
	for n, i := range group {
		last += uint64(len(i.Batch.Enqueue))
		results[n] = store.Result{Sequence: last, Time: d.w.now()}
	}
	return results
}

func (d *disk) commitNow(batches ...*store.Batch) []store.Result {
	results, err := d.log.Commit(background, batches)
	if err != nil {
		panic(fmt.Sprintf("the store beneath fails: %v", err))
	}
	return results
}

// overtake makes another writer change the entity of a batch.
func (d *disk) overtake(b *store.Batch) {
	bk := d.books[b.Key]
	version := store.Version(len(bk.entries))
	rival := &store.Batch{Key: b.Key, Expected: version}
	id := d.w.newID()
	meta := store.Metadata{CausationID: id}
	if bk.durable {
		state := proto.CloneOf(bk.state(version))
		state.Balance += 100
		rules := d.w.rules[b.Key.Kind]
		rival.Save = &store.State{ID: id, Type: rules.StateType, Fingerprint: rules.Fingerprint, Metadata: meta, Payload: encode(state)}
	} else {
		rival.Events = []store.Event{{ID: id, Type: "perdure.test.v1.Deposited", Metadata: meta, Payload: encode(&testv1.Deposited{Amount: 100})}}
	}
	r := d.commitNow(rival)[0]
	if r.Err != nil {
		panic(fmt.Sprintf("the book of %v is wrong: %v", b.Key, r.Err))
	}
	d.w.note("  another writer overtakes %v", b.Key)
	writer := d.writer
	d.writer = nil
	d.enter(rival, &r)
	d.writer = writer
}

// twisted returns the batch that a mutant stores instead of another one.
func (d *disk) twisted(b *store.Batch) *store.Batch {
	tw := &d.w.mutant
	c := *b
	switch {
	case tw.keepsReceiptsApart && len(b.Receipts) > 0:
		c.Receipts = nil
		key, receipts := b.Key, slices.Clone(b.Receipts) // the batch is reused when it has its outcome
		d.w.later(func() {
			d.commitNow(&store.Batch{Key: key, Expected: store.Version(len(d.books[key].entries)), Receipts: receipts})
		}, "the receipt of %v is stored", key)
	case tw.answersTwice:
		for i := range b.Receipts {
			c.Forget = append(slices.Clone(c.Forget), b.Receipts[i].Name)
		}
	case tw.requiresNoRow && len(b.Settle) > 0:
		c.Settle = slices.Clone(b.Settle)
		for i := range c.Settle {
			c.Settle[i].Required = false
		}
	case tw.cancelsInMemory && len(b.Cancel) > 0:
		c.Cancel = nil
	case tw.claimsTwice && len(b.Claim) > 0:
		c.Claim = nil
	default:
		return b
	}
	return &c
}

// enter records a durable batch in the book, and checks that it is the right result of its
// command.
func (d *disk) enter(b *store.Batch, r *store.Result) {
	if b.Snapshot != nil {
		d.books[b.Key].snapshot = b.Next()
	}
	if b.IsCheck() {
		return
	}
	at := d.w.tick()
	if b.Key.IsZero() {
		d.outbox.settle(b, at)
		return
	}
	command := d.cause(b)
	bk := d.books[b.Key]
	bk.writes = append(bk.writes, write{at, d.writer})
	d.append(b, bk, at)
	d.w.target.record(b, r)
	if store.Version(len(bk.entries)) != b.Next() {
		d.w.broken("%v: the store has accepted a batch that expects version %d at version %d", b.Key, b.Expected, len(bk.entries))
		return
	}
	if b.Next() > b.Expected {
		d.w.note("  %v is at version %d: %s", b.Key, len(bk.entries), stateText(bk.state(b.Next())))
		commands := []store.ID{command}
		if b.Saves > 1 {
			commands = d.members(b)
		}
		for i, command := range commands {
			first, last := b.Expected+1, b.Next()
			if b.Saves > 1 {
				first += store.Version(i)
				last = first
			}
			if w := d.written[command]; w != nil {
				d.w.broken("%v is stored at version %d and again at version %d", d.said(command), w.last, last)
				return
			}
			d.written[command] = &writing{first, last, r.Position, at}
		}
	}
	d.outbox.settle(b, at)
	d.outbox.add(b, r, at)
	d.keep(b, command, r, at)
	d.claim(b, at)
	d.checkBatch(command, b, bk)
}

// cause returns the id of the command that made a batch, or the zero ID if the batch does not
// contain it.
func (d *disk) cause(b *store.Batch) store.ID {
	switch {
	case b.Save != nil:
		return b.Save.Metadata.CausationID
	case len(b.Events) > 0:
		return b.Events[0].Metadata.CausationID
	case len(b.Receipts) > 0:
		return b.Receipts[0].CommandID
	case len(b.Enqueue) > 0:
		return b.Enqueue[0].Metadata.CausationID
	}
	for _, s := range b.Settle {
		if l := d.outbox.rows[s.Sequence]; l != nil {
			return l.message.ID
		}
	}
	return store.ID{}
}

// append adds the changes of a batch to the history of its entity.
func (d *disk) append(b *store.Batch, bk *book, at int) {
	if b.Saves > 1 {
		d.appendGroup(b, bk, at)
	} else if b.Save != nil {
		state := new(testv1.Account)
		decode(b.Save.Payload, state)
		bk.entries = append(bk.entries, entry{b.Save.Metadata.CausationID, state, at})
	}
	for i := range b.Events {
		e := &b.Events[i]
		state := proto.CloneOf(bk.state(store.Version(len(bk.entries))))
		apply(state, e)
		bk.entries = append(bk.entries, entry{e.Metadata.CausationID, state, at})
	}
}

// A groupKey names a batch that stores several commands of an entity.
type groupKey struct {
	state    store.ID
	expected store.Version
}

// noteGroup notes which commands a submitted batch stores, if it stores several: those whose
// rules have run last. Nothing else runs between them and the submission.
func (w *world) noteGroup(b *store.Batch) {
	ran := w.ran[b.Key]
	if n := int(b.Saves); n > 1 && n <= len(ran) {
		w.members[groupKey{b.Save.ID, b.Expected}] = slices.Clone(ran[len(ran)-n:])
	}
	delete(w.ran, b.Key)
}

// members returns the ids of the commands that a batch stores, of which there are several.
func (d *disk) members(b *store.Batch) []store.ID {
	return d.w.members[groupKey{b.Save.ID, b.Expected}]
}

// appendGroup adds the versions of several commands that one saved state includes. The states
// before the last one come from the model.
func (d *disk) appendGroup(b *store.Batch, bk *book, at int) {
	members := d.members(b)
	d.w.groups++
	for i, id := range members {
		v := store.Version(len(bk.entries))
		states, ok := expect(bk.durable, uint64(v), bk.state(v), d.said(id).message)
		if !ok || len(states) != 1 {
			d.w.broken("%v is in a group, though it makes %d versions on version %d, accepted: %t", d.said(id), len(states), v, ok)
			return
		}
		if i == len(members)-1 {
			state := new(testv1.Account)
			decode(b.Save.Payload, state)
			if !proto.Equal(state, states[0]) {
				d.w.broken("a group of %d commands leads to version %d with %s, want %s", len(members), v+1, stateText(state), stateText(states[0]))
			}
			states[0] = state
		}
		bk.entries = append(bk.entries, entry{id, states[0], at})
	}
}

// said returns the command with an id: a client's command, or a message to an entity. It
// returns nil if there is none.
func (d *disk) said(id store.ID) *said {
	if o := d.w.ops[id]; o != nil {
		return &said{o.String(), o.call.Message, o}
	}
	if l := d.outbox.left[id]; l != nil && !l.message.Target.IsZero() {
		return &said{l.String(), newMessage(d.w.rules, &l.message), nil}
	}
	return nil
}

// A said is a command that was sent.
type said struct {
	name    string
	message proto.Message
	op      *op // the client's call, if any
}

func (s *said) String() string {
	if s == nil {
		return "a command that nobody has sent"
	}
	return s.name
}

// checkBatch compares a command's stored records with the model.
func (d *disk) checkBatch(command store.ID, b *store.Batch, bk *book) {
	if b.Saves > 1 {
		d.checkGroup(b)
		return
	}
	c := d.said(command)
	if c == nil {
		return // another writer, or a batch without a command id
	}
	want, ok := expect(bk.durable, uint64(b.Expected), bk.state(b.Expected), c.message)
	if len(want) != int(b.Next()-b.Expected) || !ok && len(b.Receipts)+len(b.Settle) == 0 {
		d.w.broken("%v stores versions %d to %d on a state on which it makes %d, accepted: %t", c, b.Expected+1, b.Next(), len(want), ok)
		return
	}
	for i, s := range want {
		v := b.Expected + store.Version(i) + 1
		if got := bk.state(v); !proto.Equal(got, s) {
			d.w.broken("%v leads to version %d with %s, want %s", c, v, stateText(got), stateText(s))
		}
	}
	rows, _ := leaves(c.message)
	if !ok {
		rows = 0
	}
	if reply := d.outbox.checkReply(b, c, ok); reply {
		rows++
	}
	if rows != len(b.Enqueue) {
		d.w.broken("%v leaves %d rows in the outbox, want %d", c, len(b.Enqueue), rows)
	}
	if b.Next() > b.Expected || len(b.Enqueue) > 0 {
		d.did[command] = true
	}
	for i := range b.Receipts {
		if r := &b.Receipts[i]; (r.Refusal == nil) != ok || r.Version != b.Next() || r.CommandID != command {
			d.w.broken("%v keeps a receipt of version %d, refused: %t; want version %d, refused: %t", c, r.Version, r.Refusal != nil, b.Next(), !ok)
		}
	}
	if c.op == nil {
		return
	}
	if c.op.call.Conditional && c.op.call.IfVersion != b.Expected {
		d.w.broken("%v is stored on version %d", c, b.Expected)
	}
	if c.op.definite && d.did[command] {
		d.w.broken("%v was answered with %v and is stored afterwards", c, c.op.status)
	}
}

// checkGroup compares the records that several commands have stored together with the model.
// Their versions have been checked before.
func (d *disk) checkGroup(b *store.Batch) {
	rows, members := 0, d.members(b)
	if len(members) != int(b.Saves) {
		d.w.broken("a group of %d commands makes %d versions", len(members), b.Saves)
	}
	messages := 0
	for i, id := range members {
		c := d.said(id)
		n, _ := leaves(c.message)
		rows += n
		d.did[id] = true
		if c.op != nil {
			if c.op.call.Conditional || c.op.call.Name != "" {
				d.w.broken("%v is in a group, though it has a key or a version", c)
			}
			if c.op.definite {
				d.w.broken("%v was answered with %v and is stored afterwards", c, c.op.status)
			}
			continue
		}
		messages++
		if d.outbox.checkJoinedReply(b, d.outbox.left[id], b.Expected+store.Version(i)+1) {
			rows++
		}
	}
	if messages != len(b.Settle) {
		d.w.broken("a group with %d messages of the outbox completes %d", messages, len(b.Settle))
	}
	if rows != len(b.Enqueue) {
		d.w.broken("a group of %d commands leaves %d rows in the outbox, want %d", len(members), len(b.Enqueue), rows)
	}
}

// partition returns the partition of an entity.
func (d *disk) partition(key store.Key) int { return store.PartitionOf(key, d.w.parts) }

// prune deletes events that the last snapshot covers and that every reader has read, as far as
// a node's hub knows.
func (d *disk) prune(n *node, key store.Key) {
	bk := d.books[key]
	if bk.durable || bk.snapshot == 0 || !d.w.prunes {
		return
	}
	keep, err := n.hub.Keep(background, d.partition(key))
	if err != nil {
		panic(fmt.Sprintf("what is to be kept of %v: %v", key, err))
	}
	if keep.Sequence() == 0 {
		return
	}
	through := keep - 1
	if d.w.mutant.prunesUnread {
		through = store.LastPosition(d.partition(key))
	}
	deleted, err := d.log.DeleteEvents(background, key, bk.snapshot, through)
	if err != nil {
		panic(fmt.Sprintf("prune %v below %d: %v", key, bk.snapshot, err))
	}
	if deleted > 0 {
		d.w.note("%d events of %v are deleted", deleted, key)
	}
}

// audit compares the log with the book.
func (d *disk) audit() {
	for _, key := range d.w.keys {
		bk := d.books[key]
		state, version := new(testv1.Account), store.Version(0)
		for e, err := range d.log.Load(background, key, func(s *store.State) bool {
			decode(s.Payload, state)
			version = s.Version
			return true
		}) {
			if err != nil {
				panic(fmt.Sprintf("load %v: %v", key, err))
			}
			apply(state, e)
			version = e.Version
		}
		if want := store.Version(len(bk.entries)); version != want || !proto.Equal(state, bk.state(want)) {
			d.w.broken("%v in the log is at version %d with %s, in the book at %d with %s",
				key, version, stateText(state), want, stateText(bk.state(want)))
		}
	}
	d.auditClaims()
	d.outbox.audit()
}

// state returns the state at a version. The caller must not change it.
func (b *book) state(v store.Version) *testv1.Account {
	if v == 0 {
		return new(testv1.Account)
	}
	return b.entries[v-1].state
}

// apply is the fold of the model.
func apply(a *testv1.Account, e *store.Event) {
	switch e.Type {
	case "perdure.test.v1.Opened":
		var m testv1.Opened
		decode(e.Payload, &m)
		a.Owner = m.GetOwner()
	case "perdure.test.v1.Deposited":
		var m testv1.Deposited
		decode(e.Payload, &m)
		a.Balance += m.GetAmount()
		a.Operations++
	case "perdure.test.v1.Withdrawn":
		var m testv1.Withdrawn
		decode(e.Payload, &m)
		a.Balance -= m.GetAmount()
		a.Operations++
	case "perdure.test.v1.Annotated":
		var m testv1.Annotated
		decode(e.Payload, &m)
		a.Notes = append(a.Notes, m.GetNote())
	default:
		panic("an event that must never be stored: " + e.Type)
	}
}

func encode(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

func decode(b []byte, m proto.Message) {
	if err := proto.Unmarshal(b, m); err != nil {
		panic(err)
	}
}
