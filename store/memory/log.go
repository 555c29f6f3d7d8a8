// Package memory is the reference store: a [store.Log] that keeps everything in memory. It
// is simple rather than clever, so that its correctness is easy to see, and fast enough for
// tests, for simulations and for data that may be lost with the process.
package memory

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/uuid/v5"

	"github.com/perdure/perdure/internal/errtext"
	"github.com/perdure/perdure/store"
)

const (
	// formatVersion is the format in [store.LogInfo].
	formatVersion = 1
	// snapshotsMax is the number of snapshots kept for each entity.
	snapshotsMax = 2
)

// A Log is a [store.Log] in memory, and also a [store.Synchronous] and a [store.Watcher]. Its
// records are lost when the process ends.
//
// Records are kept in their stored form. Every read decodes them and verifies their
// checksums. Invariants:
//
//  1. The bytes that a ref points to never change, nor does a row or a slice of refs below
//     its length. A changed record is a new value in a new place.
//  2. The data that the fields below mu refer to changes under mu only, a whole group of
//     batches at a time.
//
// So a reader takes mu once, copies the slices that it needs, and reads them without a
// lock: it sees whole groups only and delays no commit. A reader of the outbox, of receipts
// or of claims does so for one page at a time.
type Log struct {
	info   store.LogInfo
	clock  func() time.Time
	shared bool
	last   time.Time // time of the last commit, if shared

	mu          sync.RWMutex
	closed      bool
	held        bool // an engine holds the log, see Acquire
	unfinished  bool // an import has not finished, see Import
	arena       arena
	partitions  []partition
	kinds       map[string]*kind
	stats       store.Stats
	outbox      outbox
	claims      map[string]*ordered[named] // by space
	checkpoints map[checkpointKey][]byte
	changed     chan struct{} // closed by the next commit of events or messages; nil if no reader waits
}

var (
	_ store.Log         = (*Log)(nil)
	_ store.Watcher     = (*Log)(nil)
	_ store.Synchronous = (*Log)(nil)
)

// An entity takes about 130 bytes together with its entry in the catalog. To keep it small,
// the fields that few entities need are behind a pointer.
type entity struct {
	version store.Version
	events  []ref // the events that are kept; if there are any, the last one is at version
	rare    *rare
}

// rare holds the fields that only some entities need.
type rare struct {
	saved    bool // the entity is a durable-state one
	states   []state
	timers   map[string]uint64 // sequence by name
	receipts ordered[named]
}

// A state is a snapshot or a saved state. The states of an entity are sorted by version.
type state struct {
	version store.Version
	sealed  []byte
}

// A named is a stored record that is found by its name.
type named struct {
	name   string
	sealed []byte
}

func compareNamed(a, b named) int { return strings.Compare(a.name, b.name) }

// New returns an empty log. Unless an option says otherwise it has one partition, uses the
// system's clock and is for one engine at a time. New panics if an option has a value that is not
// allowed.
func New(opts ...Option) *Log {
	c := newConfig(opts)
	l := &Log{
		clock:       c.now,
		shared:      c.shared,
		partitions:  make([]partition, c.partitions),
		kinds:       make(map[string]*kind),
		outbox:      newOutbox(),
		claims:      make(map[string]*ordered[named]),
		checkpoints: make(map[checkpointKey][]byte),
	}
	l.info = store.LogInfo{
		ID:         store.ID(uuid.Must(uuid.NewV7())),
		Format:     formatVersion,
		Partitions: len(l.partitions),
		Created:    l.now(),
	}
	return l
}

// latest returns the later of two times.
func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// now returns the time with the precision and zone that a record keeps.
func (l *Log) now() time.Time { return time.Unix(0, l.clock().UnixNano()).UTC() }

// Commit implements [store.Log]. It waits only for other commits.
func (l *Log) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	if _, err := store.CheckGroup(group); err != nil {
		return nil, fmt.Errorf("commit: %w: %w", store.ErrNotStored, err)
	}
	results := make([]store.Result, len(group))
	for i, b := range group {
		if b == nil {
			results[i].Err = fmt.Errorf("%w: the batch is nil", store.ErrInvalid)
			continue
		}
		results[i].Err = b.Validate()
	}

	l.lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return nil, fmt.Errorf("commit: %w: %w", store.ErrNotStored, err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("commit: %w: %w", store.ErrNotStored, err)
	}
	now := l.now()
	if l.shared { // as in every store that several engines write to, times do not go back
		now = latest(now, l.last)
		l.last = now
	}
	var refused map[store.Key]bool
	for i, b := range group {
		r := &results[i]
		if b == nil {
			continue // it is refused already
		}
		if r.Err == nil && refused[b.Key] {
			r.Err = &store.ConflictError{Key: b.Key, Expected: b.Expected, AfterRefused: true}
		}
		var e *entity
		if r.Err == nil {
			e, r.Err = l.check(b)
		}
		if r.Err == nil {
			l.apply(b, e, now, r)
			if len(b.Events)+len(b.Enqueue)+len(b.Settle) > 0 {
				l.tell()
			}
		} else if !b.Key.IsZero() {
			if refused == nil {
				refused = make(map[store.Key]bool)
			}
			refused[b.Key] = true
		}
	}
	return results, nil
}

// Changed implements [store.Watcher].
func (l *Log) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.changed
}

// tell tells those who wait for it that the log has changed. It is called under the lock.
func (l *Log) tell() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// lockTries is the number of times that a commit yields before it queues for the lock.
const lockTries = 32

// lock takes mu for a commit. The lock is held for less than a microsecond, so yielding to
// other goroutines is cheaper than queueing: a mutex with a long queue is handed from one
// sleeping goroutine to the next, and each must be woken.
func (l *Log) lock() {
	for range lockTries {
		if l.mu.TryLock() {
			return
		}
		runtime.Gosched()
	}
	l.mu.Lock()
}

// check returns the reason why the batch cannot be stored, or nil, and the batch's entity
// if it exists. After check has returned nil, apply cannot fail.
func (l *Log) check(b *store.Batch) (e *entity, err error) {
	if !b.Key.IsZero() {
		e = l.find(b.Key)
		if err := l.checkEntity(b, e); err != nil {
			return nil, err
		}
	}
	return e, l.checkRest(b)
}

// checkRest checks the parts of a batch that do not depend on its entity's version.
func (l *Log) checkRest(b *store.Batch) error {
	if len(b.Settle) > 0 {
		if err := l.checkSettle(b); err != nil {
			return err
		}
	}
	if err := l.checkReceipts(b); err != nil {
		return err
	}
	for _, c := range b.Claim {
		owner, err := l.owner(c)
		if err == nil && owner.Owner != b.Key {
			return &store.ClaimedError{Claim: c, Owner: owner.Owner}
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	return nil
}

func (l *Log) checkEntity(b *store.Batch, e *entity) error {
	if e == nil {
		e = &entity{}
	}
	if e.version != b.Expected {
		return &store.ConflictError{Key: b.Key, Expected: b.Expected, Actual: e.version}
	}
	saved := e.rare != nil && e.rare.saved
	if b.Save != nil && len(e.events) > 0 {
		return fmt.Errorf("append %v: %w: a state to save for an entity with events", b.Key, store.ErrInvalid)
	}
	if saved && (len(b.Events) > 0 || b.Snapshot != nil) {
		return fmt.Errorf("append %v: %w: events or a snapshot for an entity with a saved state", b.Key, store.ErrInvalid)
	}
	if b.Snapshot != nil && len(b.Events) == 0 {
		if _, err := l.arena.position(e.events[len(e.events)-1]); err != nil {
			return fmt.Errorf("snapshot %v: %w", b.Key, where(err, b.Key, e.version, 0))
		}
	}
	return nil
}

// apply stores a checked batch, part by part in the order of its fields. E is nil if the
// entity does not exist yet.
func (l *Log) apply(b *store.Batch, e *entity, now time.Time, r *store.Result) {
	r.Time = now
	if b.IsCheck() {
		return
	}
	if !b.Key.IsZero() {
		if e == nil || e.version == 0 {
			e = l.findOrCreate(b.Key, b.Next() > b.Expected)
		}
		l.appendEvents(e, b, r)
		l.putStates(e, b, now)
	}
	l.settle(b)
	l.cancel(e, b.Cancel)
	l.enqueue(e, b, r)
	l.putReceipts(e, b, r)
	l.putClaims(b, now)
	l.putCheckpoints(b.Checkpoints, now)
}

func (l *Log) appendEvents(e *entity, b *store.Batch, r *store.Result) {
	if len(b.Events) == 0 {
		return
	}
	number := store.PartitionOf(b.Key, len(l.partitions))
	p := &l.partitions[number]
	for i := range b.Events {
		ev := &b.Events[i]
		e.version++
		ev.Key, ev.Version, ev.Time = b.Key, e.version, r.Time
		ev.Position = store.NewPosition(number, p.head+1)
		at := l.arena.event(ev)
		p.append(at)
		e.events = append(e.events, at)
		r.Position = ev.Position
	}
	l.stats.Events += int64(len(b.Events))
}

func (l *Log) putStates(e *entity, b *store.Batch, now time.Time) {
	s := b.Snapshot
	if b.Save != nil {
		s = b.Save
		e.version = b.Next()
	}
	if s == nil {
		return
	}
	x := e.more()
	s.Key, s.Version, s.Time, s.Position = b.Key, e.version, now, 0
	if b.Snapshot != nil {
		s.Position, _ = l.arena.position(e.events[len(e.events)-1]) // check has read it without an error
	}
	kept := x.states
	if n := len(kept); b.Save != nil {
		kept = nil
	} else if n > 0 && kept[n-1].version == s.Version {
		kept = kept[:n-1] // the new one replaces it
	}
	kept = kept[max(0, len(kept)-snapshotsMax+1):]
	l.stats.Snapshots += int64(len(kept) + 1 - len(x.states))
	x.saved = b.Save != nil
	x.states = append(slices.Clip(kept), state{s.Version, store.AppendState(nil, s)}) // in a new slice, because readers hold the old one
}

// find returns an entity, or nil if the log has no record of it.
func (l *Log) find(key store.Key) *entity {
	k := l.kinds[key.Kind]
	if k == nil {
		return nil
	}
	return k.entities[key.ID]
}

// findOrCreate returns an entity, and creates it if necessary. Changes says that its
// version is about to grow: from its first version on an entity is in the catalog.
func (l *Log) findOrCreate(key store.Key, changes bool) *entity {
	k := l.kinds[key.Kind]
	if k == nil {
		k = &kind{entities: make(map[string]*entity)}
		l.kinds[strings.Clone(key.Kind)] = k
	}
	e := k.entities[key.ID]
	if e != nil && (e.version > 0 || !changes) {
		return e
	}
	id := strings.Clone(key.ID)
	if e == nil {
		e = &entity{}
		k.entities[id] = e
	}
	if changes {
		k.ids = append(k.ids, id)
		l.stats.Entities++
	}
	return e
}

func (e *entity) more() *rare {
	if e.rare == nil {
		e.rare = &rare{receipts: ordered[named]{compare: compareNamed}}
	}
	return e.rare
}

// Heads implements [store.Log].
func (l *Log) Heads(ctx context.Context) ([]store.Position, error) {
	unlock, err := l.begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("heads: %w", err)
	}
	defer unlock()
	heads := make([]store.Position, len(l.partitions))
	for i := range l.partitions {
		heads[i] = store.NewPosition(i, l.partitions[i].head)
	}
	return heads, nil
}

// Close implements [store.Log]. Iterations that have begun continue.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("close: %w", store.ErrClosed)
	}
	l.closed = true
	l.tell()
	return nil
}

// Reopen closes l, unless it is closed, and returns a log with the same records, as if it
// had been read from a disk. It is for tests that continue after a simulated crash. The new
// log has the options of l, and no engine holds it.
func (l *Log) Reopen() *Log {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true // l stays closed, so the new log can take over all data
	return &Log{
		info: l.info, clock: l.clock, shared: l.shared, unfinished: l.unfinished,
		arena: l.arena, partitions: l.partitions, kinds: l.kinds, stats: l.stats,
		outbox: l.outbox, claims: l.claims, checkpoints: l.checkpoints,
	}
}

// Acquire implements [store.Exclusive]. Release may be called more than once.
func (l *Log) Acquire() (release func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return nil, fmt.Errorf("acquire: %w", err)
	}
	switch {
	case l.shared:
		return nil, fmt.Errorf("acquire: %w: the log is shared", errors.ErrUnsupported)
	case l.held:
		return nil, errHeld
	}
	l.held = true
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.held = false
	}), nil
}

// errHeld is the error of a log that another engine holds.
var errHeld = errtext.New("memory log is held by another engine", store.ErrInUse)

// Synchronous implements [store.Synchronous].
func (l *Log) Synchronous() bool { return true }

// Stats implements [store.StatsReader]. The sizes of files are 0.
func (l *Log) Stats(ctx context.Context) (store.Stats, error) {
	unlock, err := l.begin(ctx)
	if err != nil {
		return store.Stats{}, fmt.Errorf("stats: %w", err)
	}
	defer unlock()
	return l.figures(), nil
}

func (l *Log) figures() store.Stats {
	s := l.stats
	s.Info = l.info
	s.Pending, s.Parked = int64(l.outbox.pending.length), int64(l.outbox.parked.length)
	return s
}

// usable returns the reason why the log cannot be used, or nil. The caller holds mu.
func (l *Log) usable() error {
	switch {
	case l.closed:
		return store.ErrClosed
	case l.unfinished:
		return store.ErrUnfinished
	}
	return nil
}

// begin locks the log for reading, unless it is closed or the context has ended.
func (l *Log) begin(ctx context.Context) (unlock func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.RLock()
	if err := l.usable(); err != nil {
		l.mu.RUnlock()
		return nil, err
	}
	return l.mu.RUnlock, nil
}
