package sim_test

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/commit"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// errIO is an error that says nothing about the outcome.
var errIO = errors.New("input/output error")

// A disk is the store, with a book in which is kept what was stored when: the
// truth against which all answers are held.
type disk struct {
	w       *world
	log     *memory.Log
	books   map[store.Key]*book
	written map[store.ID]*writing // by command
}

// A book is the history of one entity.
type book struct {
	durable  bool
	entries  []entry // of version 1, 2, …
	snapshot store.Version
}

type entry struct {
	command store.ID
	state   *testv1.Account // after it
	at      int             // the moment in which it became durable
}

// A writing is what one command has stored.
type writing struct {
	first, last store.Version
	position    store.Position
	at          int
}

func newDisk(w *world) *disk {
	d := &disk{w: w, books: make(map[store.Key]*book), written: make(map[store.ID]*writing)}
	options := []memory.Option{memory.WithClock(func() time.Time { return w.now() })}
	if w.shared {
		options = append(options, memory.Shared())
	}
	d.log = memory.New(options...)
	for _, k := range w.keys {
		d.books[k] = &book{durable: w.rules[k.Kind].Durable}
	}
	return d
}

// A verdict is how the store deals with one group.
type verdict uint8

const (
	stores        verdict = iota
	refuses               // nothing is stored, and the store says so
	failsBefore           // nothing is stored, and nobody can know
	failsAfter            // all is stored, and nobody can know
	isOvertaken           // another writer comes first
	isMiscounting         // all is stored, with a result too many
)

// verdict draws how the next group will fare.
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

// commit is the moment in which a group is stored, or not.
func (d *disk) commit(group []*commit.Item, v verdict) ([]store.Result, error) {
	switch v {
	case refuses:
		return nil, fmt.Errorf("commit: %w", store.ErrNotStored)
	case failsBefore:
		return nil, errIO
	case isOvertaken:
		d.overtake(&group[0].Batch)
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

// store commits for real and keeps the book.
func (d *disk) store(group []*commit.Item) []store.Result {
	var results []store.Result
	if d.w.twin.storesBehind {
		for _, i := range group {
			results = append(results, d.commitNow(&i.Batch)...)
		}
	} else {
		batches := make([]*store.Batch, len(group))
		for n, i := range group {
			batches[n] = &i.Batch
		}
		results = d.commitNow(batches...)
	}
	refused := make(map[*commit.Lane]bool)
	for n, i := range group {
		switch {
		case results[n].Err != nil:
			refused[i.Lane] = true
			d.w.note("  %v expecting version %d is refused", i.Batch.Key, i.Batch.Expected)
		case refused[i.Lane]:
			d.w.broken("a batch of %v is stored behind a refused one", i.Batch.Key)
		default:
			d.enter(&i.Batch, &results[n])
		}
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

// overtake lets another writer change the entity that a batch is about.
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
	d.enter(rival, &r)
}

// enter writes a batch that is now durable into the book, and checks that it is
// what the command had to lead to.
func (d *disk) enter(b *store.Batch, r *store.Result) {
	if b.Snapshot != nil {
		d.books[b.Key].snapshot = b.Next()
	}
	if b.Next() == b.Expected {
		return
	}
	bk := d.books[b.Key]
	at := d.w.tick()
	var command store.ID
	if b.Save != nil {
		command = b.Save.Metadata.CausationID
		state := new(testv1.Account)
		decode(b.Save.Payload, state)
		bk.entries = append(bk.entries, entry{command, state, at})
	}
	for i := range b.Events {
		e := &b.Events[i]
		command = e.Metadata.CausationID
		state := proto.CloneOf(bk.state(store.Version(len(bk.entries))))
		apply(state, e)
		bk.entries = append(bk.entries, entry{command, state, at})
	}
	d.w.note("  %v is at version %d: %s", b.Key, len(bk.entries), stateText(bk.state(b.Next())))
	if store.Version(len(bk.entries)) != b.Next() {
		d.w.broken("%v: the store has accepted a batch that expects version %d at version %d", b.Key, b.Expected, len(bk.entries))
		return
	}
	if w := d.written[command]; w != nil {
		d.w.broken("%v is stored at version %d and again at version %d", d.w.ops[command], w.last, b.Next())
		return
	}
	d.written[command] = &writing{b.Expected + 1, b.Next(), r.Position, at}
	if o := d.w.ops[command]; o != nil {
		d.checkWriting(o, b, bk)
	}
}

// checkWriting holds what a command has stored against the model.
func (d *disk) checkWriting(o *op, b *store.Batch, bk *book) {
	want, ok := expect(bk.durable, uint64(b.Expected), bk.state(b.Expected), o.call.Message)
	if !ok || len(want) != int(b.Next()-b.Expected) {
		d.w.broken("%v stores versions %d to %d on a state on which it makes %d, accepted: %t", o, b.Expected+1, b.Next(), len(want), ok)
		return
	}
	for i, s := range want {
		v := b.Expected + store.Version(i) + 1
		if got := bk.state(v); !proto.Equal(got, s) {
			d.w.broken("%v leads to version %d with %s, want %s", o, v, stateText(got), stateText(s))
		}
	}
	if o.call.Conditional && o.call.IfVersion != b.Expected {
		d.w.broken("%v is stored on version %d", o, b.Expected)
	}
	if o.definite {
		d.w.broken("%v was answered with %v and is stored afterwards", o, o.status)
	}
}

// prune deletes events that the last snapshot covers.
func (d *disk) prune(key store.Key) {
	bk := d.books[key]
	if bk.durable || bk.snapshot == 0 {
		return
	}
	n, err := d.log.DeleteEvents(background, key, bk.snapshot, store.LastPosition(0))
	if err != nil {
		panic(fmt.Sprintf("prune %v below %d: %v", key, bk.snapshot, err))
	}
	if n > 0 {
		d.w.note("%d events of %v are deleted", n, key)
	}
}

// audit holds the log against the book.
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
}

// state returns the state at a version, which must not be changed.
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
