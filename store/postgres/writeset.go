package postgres

import (
	"fmt"
	"math"
	"time"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// A writeSet collects the rows that a transaction has to write for a group of batches. It
// implements [storecore.Transaction] on the values that the transaction has read. It applies
// each accepted batch to the values, so a later batch sees the changes of an earlier one. It
// writes only the final form of each row, however often the group has changed it.
type writeSet struct {
	*readValues
	partitions int
	now        time.Time
	current    *entityHead // entity of the last call of Head
	// speculative is true if the values come from the cache, and messages and receipts have not
	// been read: rows to delete may not exist, and rows to add may exist already.
	speculative bool

	first   uint64 // lowest sequence of the messages that the write set adds, or MaxUint64
	events  []*store.Event
	puts    map[stateKey]*store.State // snapshots and saved states to write
	drops   map[stateKey]bool         // existing snapshots to delete
	changed changedRows
	stamped []*store.Receipt // receipts whose position the write set has filled in
	// forgotten are the receipts whose rows are deleted, including those added again.
	forgotten map[receiptKey]bool
}

// A stateKey is the key of a state. A saved state has version 0.
type stateKey struct {
	key     store.Key
	version store.Version
}

// changedRows holds the final form of each changed row: its record, or nil if the row is to be
// deleted.
type changedRows struct {
	messages    map[uint64]*store.Message
	receipts    map[receiptKey]*store.Receipt
	claims      map[store.Claim]*store.Claimed
	checkpoints map[checkpointKey]*store.Checkpoint
}

// newWriteSet returns an empty write set, with room for the given number of events.
func newWriteSet(f *readValues, partitions, events int, now time.Time) *writeSet {
	return &writeSet{
		readValues: f, partitions: partitions, now: now, first: math.MaxUint64, events: make([]*store.Event, 0, events),
		puts: make(map[stateKey]*store.State), drops: make(map[stateKey]bool),
		changed: changedRows{
			messages: make(map[uint64]*store.Message), receipts: make(map[receiptKey]*store.Receipt),
			claims: make(map[store.Claim]*store.Claimed), checkpoints: make(map[checkpointKey]*store.Checkpoint),
		},
	}
}

// empty reports whether the write set writes nothing.
func (p *writeSet) empty() bool {
	return len(p.events)+len(p.puts)+len(p.drops)+len(p.changed.messages)+len(p.changed.receipts)+
		len(p.changed.claims)+len(p.changed.checkpoints) == 0
}

// undo undoes the fields that the write set has changed in the callers' batches, so that they can
// be planned again.
func (p *writeSet) undo() {
	for _, r := range p.stamped {
		r.Position = 0
	}
}

// Head implements [storecore.View].
func (p *writeSet) Head(key store.Key) (storecore.Head, error) {
	p.current = p.head(key)
	return storecore.Head{Version: p.current.version, Saved: p.current.saved}, nil
}

// Readable implements [storecore.View]. The transaction has read everything that Apply needs.
func (p *writeSet) Readable(*store.Batch) error { return nil }

// HasReceipt implements [storecore.View].
func (p *writeSet) HasReceipt(key store.Key, name string) (bool, error) {
	return p.receipts[receiptKey{key.Kind, key.ID, name}], nil
}

// Message implements [storecore.View].
func (p *writeSet) Message(sequence uint64) (*store.Message, error) {
	if m, ok := p.changed.messages[sequence]; ok {
		return m, nil
	}
	record := p.messages[sequence]
	if record == nil {
		return nil, nil
	}
	m, err := store.DecodeMessage(record)
	if err == nil && m.Sequence != sequence {
		err = &store.CorruptError{What: "message", Reason: fmt.Sprintf("found message %d in its place", m.Sequence)}
	}
	if err != nil {
		return nil, located(err, "messages", fmt.Sprint("sequence ", sequence))
	}
	return m, nil
}

// Timer implements [storecore.View].
func (p *writeSet) Timer(key store.Key, name string) (*store.Message, error) {
	sequence := p.timers[timerKey{key.Kind, key.ID, name}]
	if sequence == 0 {
		return nil, nil
	}
	m, err := p.Message(sequence)
	if m != nil && (m.Source != key || m.Timer != name) {
		err = located(&store.CorruptError{What: "message", Reason: fmt.Sprintf("message %d is not timer %q of %v", sequence, name, key)},
			"messages", fmt.Sprint("sequence ", sequence))
	}
	return m, err
}

// ClaimOwner implements [storecore.View].
func (p *writeSet) ClaimOwner(c store.Claim) (*store.Claimed, error) {
	if owned, ok := p.changed.claims[c]; ok {
		return owned, nil
	}
	record := p.claims[c]
	if record == nil {
		return nil, nil
	}
	return decodeClaim(c, record)
}

// Apply implements [storecore.Transaction]. It adds the parts of a batch to the write set, in
// the order of the batch's fields. It cannot fail.
func (p *writeSet) Apply(b *store.Batch, _ storecore.Head, r *store.Result) error {
	r.Time = p.now
	if b.IsCheck() {
		return nil
	}
	if !b.Key.IsZero() {
		p.applyEntity(b, p.current, r)
	}
	for i := range b.Settle {
		s := &b.Settle[i]
		old, _ := p.Message(s.Sequence) // the check of the batch has read it
		switch {
		case old == nil && !p.speculative, old != nil && s.Misses(old):
		case s.Message == nil:
			p.changed.messages[s.Sequence] = nil
		default:
			m := *s.Message
			m.Sequence = s.Sequence
			p.changed.messages[s.Sequence] = &m
		}
	}
	for _, name := range b.Cancel {
		p.cancel(b.Key, name)
	}
	for i := range b.Enqueue {
		m := &b.Enqueue[i]
		if m.Timer != "" {
			p.cancel(b.Key, m.Timer)
			p.timers[timerKey{b.Key.Kind, b.Key.ID, m.Timer}] = p.sequence + 1
		}
		p.sequence++
		p.first = min(p.first, p.sequence)
		m.Sequence, m.Source, m.Time = p.sequence, b.Key, p.now
		p.changed.messages[m.Sequence] = m
		r.Sequence = m.Sequence
	}
	p.applyReceipts(b, r)
	p.applyClaims(b)
	for i := range b.Checkpoints {
		m := &b.Checkpoints[i]
		k := checkpointKey{m.Name, m.Position.Partition()}
		if m.Remove {
			p.changed.checkpoints[k] = nil
		} else {
			m.Time = p.now
			p.changed.checkpoints[k] = m
		}
	}
	return nil
}

func (p *writeSet) applyEntity(b *store.Batch, e *entityHead, r *store.Result) {
	if len(b.Events) > 0 {
		partition := store.PartitionOf(b.Key, p.partitions)
		for i := range b.Events {
			p.heads[partition]++
			ev := &b.Events[i]
			ev.Key, ev.Version, ev.Time = b.Key, b.Expected+store.Version(i)+1, p.now
			ev.Position = store.NewPosition(partition, p.heads[partition])
			p.events = append(p.events, ev)
			r.Position = ev.Position
		}
		e.position = r.Position
	}
	e.version = b.Next()
	switch {
	case b.Save != nil:
		s := b.Save
		s.Key, s.Version, s.Time, s.Position = b.Key, e.version, p.now, 0
		e.saved = true
		p.puts[stateKey{b.Key, 0}] = s
	case b.Snapshot != nil:
		s := b.Snapshot
		s.Key, s.Version, s.Time, s.Position = b.Key, e.version, p.now, e.position
		p.putSnapshot(e, s)
	}
}

// putSnapshot keeps the new snapshot and the one before it, and drops older ones.
func (p *writeSet) putSnapshot(e *entityHead, s *store.State) {
	if n := len(e.snapshots); n == 0 || e.snapshots[n-1] != s.Version {
		e.snapshots = append(e.snapshots, s.Version)
	}
	p.puts[stateKey{s.Key, s.Version}] = s
	for len(e.snapshots) > snapshotsMax {
		k := stateKey{s.Key, e.snapshots[0]}
		e.snapshots = e.snapshots[1:]
		delete(p.puts, k)
		p.drops[k] = true
	}
}

// snapshotsMax is the number of snapshots that the log keeps of an entity.
const snapshotsMax = 2

// cancel removes the timer of an entity if it is set.
func (p *writeSet) cancel(key store.Key, name string) {
	if m, _ := p.Timer(key, name); m != nil { // the check of the batch has read it
		p.changed.messages[m.Sequence] = nil
	}
}

func (p *writeSet) applyReceipts(b *store.Batch, r *store.Result) {
	for _, name := range b.Forget {
		k := receiptKey{b.Key.Kind, b.Key.ID, name}
		p.changed.receipts[k] = nil
		if p.forgotten == nil {
			p.forgotten = make(map[receiptKey]bool)
		}
		p.forgotten[k] = true
		p.receipts[k] = false
	}
	for i := range b.Receipts {
		c := &b.Receipts[i]
		c.Entity, c.Time = b.Key, p.now
		if c.Position == 0 && r.Position != 0 {
			c.Position = r.Position
			p.stamped = append(p.stamped, c)
		}
		k := receiptKey{b.Key.Kind, b.Key.ID, c.Name}
		p.changed.receipts[k] = c
		p.receipts[k] = true
	}
}

func (p *writeSet) applyClaims(b *store.Batch) {
	for _, c := range b.Release {
		if owned, _ := p.ClaimOwner(c); owned != nil && owned.Owner == b.Key { // the check of the batch has read it
			p.changed.claims[c] = nil
		}
	}
	for _, c := range b.Claim {
		if owned, _ := p.ClaimOwner(c); owned == nil { // otherwise the entity holds it already, with its old time
			p.changed.claims[c] = &store.Claimed{Claim: c, Owner: b.Key, Time: p.now}
		}
	}
}

func decodeClaim(c store.Claim, record []byte) (*store.Claimed, error) {
	owned, err := store.DecodeClaimed(record)
	if err == nil && owned.Claim != c {
		err = &store.CorruptError{What: "claim", Reason: fmt.Sprintf("found %q in %q in its place", owned.Claim.Value, owned.Claim.Space)}
	}
	if err != nil {
		return nil, located(err, "claims", fmt.Sprintf("value %q in space %q", c.Value, c.Space))
	}
	return owned, nil
}
