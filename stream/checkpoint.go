package stream

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
	"github.com/perdure/perdure/store"
)

// ErrFenced ends a subscription whose name somebody else has claimed since.
var ErrFenced = errors.New("subscription is taken over")

// Checkpoints keep the positions of subscriptions by name. An implementation
// must pass [github.com/perdure/perdure/stream/streamtest.RunCheckpoints].
//
// A subscription whose checkpoints are not in the log that it reads has a bookmark
// in that log as well, [BookmarkPrefix] and its name, which follows what is saved
// here: so the log keeps what the subscription has yet to read, also while it is
// closed. One that does not come back is removed from both places; from the log by
// [Readers.Remove] or by the command "perdure readers".
//
// If the log is restored from a backup, positions that were saved later are above
// it, or of other events. [Hub.Subscribe] then returns an error matching
// [ErrReplaced]; a [ProofKeeper] lets it notice that for certain. The position is
// then removed from the checkpoints, so that the subscription begins again.
type Checkpoints interface {
	// Claim makes the caller the keeper of a name, in place of the one before it,
	// if there is one, and returns its positions: at most one for each partition,
	// none for those that have never been saved. From then on nobody else can
	// save positions of the name, and what others have saved is in what it
	// returns.
	Claim(ctx context.Context, name string) (Checkpoint, []store.Position, error)
}

// A Checkpoint keeps the positions of one name for the one who has claimed it.
type Checkpoint interface {
	// Save keeps positions, at most one for each partition, in place of those that
	// were kept for the same partitions: all of them or none, and for good once it
	// returns. It returns an error matching [ErrFenced], and keeps nothing, if
	// somebody else has claimed the name. After any other error the outcome is
	// unknown. It is not called by two goroutines at once.
	Save(ctx context.Context, positions []store.Position) error
}

// Names under which [LogCheckpoints] keeps things in a log.
const (
	// BookmarkPrefix is what the bookmark of a subscription has before its name.
	BookmarkPrefix = "subscription/"
	// ClaimKind is the kind of the entities that count the claims of a name.
	ClaimKind = "perdure.subscription"
)

// A ProofKeeper is a [Checkpoint] that keeps, with each position, the id of the
// event at it. A subscription checks these proofs when it begins, and so notices
// that the log has been restored from a backup or replaced since. Without it only
// a position above the head of the log is noticed. It is optional.
type ProofKeeper interface {
	Checkpoint
	// Proofs returns, for each position that the claim has returned, what was
	// saved with it: a position that was saved by Save has a proof without event.
	Proofs() []Proof
	// SaveProofs is Save for positions with their proofs.
	SaveProofs(ctx context.Context, proofs []Proof) error
}

// LogCheckpoints returns checkpoints that are bookmarks of the log. Its claims
// are a durable-state entity for each name, of the kind [ClaimKind]: a claim makes
// the next version, and so does every save, which depends on the one before, so
// whoever has been overtaken cannot save. The state keeps the proofs of the
// positions. A log without [store.Bookmarks] cannot be used: Claim returns an
// error matching [errors.ErrUnsupported].
//
// What is restored from a backup has its subscriptions with it, at the positions
// that they had then: commits that were acknowledged after the backup, and are in
// it no more, are not missed, and those that are stored later are delivered.
func LogCheckpoints(log store.Log) Checkpoints { return logCheckpoints{log} }

type logCheckpoints struct{ log store.Log }

// claimTriesMax bounds how often a claim is tried while others claim the name.
const claimTriesMax = 16

func (c logCheckpoints) Claim(ctx context.Context, name string) (Checkpoint, []store.Position, error) {
	marks, ok := c.log.(store.Bookmarks)
	if !ok {
		return nil, nil, fmt.Errorf("claim subscription %q: %w: a %T keeps no bookmarks", name, errors.ErrUnsupported, c.log)
	}
	if err := store.ValidateName("subscription name", BookmarkPrefix+name); err != nil {
		return nil, nil, err
	}
	k := &logCheckpoint{log: c.log, name: name, key: store.Key{Kind: ClaimKind, ID: name}}
	if err := k.claim(ctx); err != nil {
		return nil, nil, fmt.Errorf("claim subscription %q: %w", name, err)
	}
	all, err := marks.Bookmarks(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("claim subscription %q: %w", name, err)
	}
	var positions []store.Position
	for _, m := range all {
		if m.Name == BookmarkPrefix+name {
			positions = append(positions, m.Position)
		}
	}
	k.claimed = k.proofs.of(positions)
	return k, positions, nil
}

// proofs are those of a name by partition.
type proofs map[int]Proof

// of returns the proofs of positions.
func (m proofs) of(positions []store.Position) (all []Proof) {
	for _, p := range positions {
		proof := Proof{Position: p}
		if known := m[p.Partition()]; known.Position == p {
			proof = known
		}
		all = append(all, proof)
	}
	return all
}

// with returns a copy that holds more proofs, or others.
func (m proofs) with(more []Proof) proofs {
	next := maps.Clone(m)
	if next == nil {
		next = proofs{}
	}
	for _, p := range more {
		next[p.Position.Partition()] = p
	}
	return next
}

// state returns the state that keeps the proofs.
func (m proofs) state() (*store.State, error) {
	c := &perdurev1.Checkpoint{}
	for _, part := range slices.Sorted(maps.Keys(m)) {
		if p := m[part]; !p.Event.IsZero() {
			c.Proofs = append(c.Proofs, &perdurev1.CheckpointProof{Position: uint64(p.Position), EventId: p.Event[:]})
		}
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	return &store.State{ID: newID(), Type: string(c.ProtoReflect().Descriptor().FullName()), Payload: payload}, err
}

func decodeProofs(s *store.State) (proofs, error) {
	var c perdurev1.Checkpoint
	m := proofs{}
	if s.Type != string(c.ProtoReflect().Descriptor().FullName()) {
		return m, nil // an earlier version of this package has saved it, without proofs
	}
	if err := proto.Unmarshal(s.Payload, &c); err != nil {
		return nil, &store.CorruptError{What: "checkpoint", Key: s.Key, Version: s.Version, Reason: err.Error()}
	}
	for _, p := range c.Proofs {
		at := store.Position(p.Position)
		if len(p.EventId) != len(store.ID{}) {
			return nil, &store.CorruptError{What: "checkpoint", Key: s.Key, Version: s.Version, Position: at, Reason: "the id of the event is cut"}
		}
		m[at.Partition()] = Proof{Position: at, Event: store.ID(p.EventId)}
	}
	return m, nil
}

// A logCheckpoint is the keeper of one name in a log. Every version of its entity
// but the claims of others is its own, so the version it has made last fences it.
type logCheckpoint struct {
	log     store.Log
	name    string
	key     store.Key
	claimed []Proof

	version store.Version // of the claim or the last save
	proofs  proofs        // as of that
	// doubt is the state of a save whose outcome is not known, and then what
	// would hold.
	doubt      store.ID
	doubtsThen proofs
}

// read returns the version, the id and the proofs of what is stored.
func (k *logCheckpoint) read(ctx context.Context) (version store.Version, id store.ID, m proofs, err error) {
	defer contain(&err)
	var bad error
	for _, err := range k.log.Load(ctx, k.key, func(s *store.State) bool {
		version, id = s.Version, s.ID
		m, bad = decodeProofs(s)
		return true
	}) {
		if err != nil {
			return 0, id, nil, err
		}
	}
	return version, id, m, bad
}

// claim makes the next version of the entity, with the proofs as they are.
func (k *logCheckpoint) claim(ctx context.Context) error {
	var err error
	for range claimTriesMax {
		if k.version, _, k.proofs, err = k.read(ctx); err != nil {
			return err
		}
		if err = k.next(ctx, k.proofs, nil); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return err
}

// next stores the next version together with bookmarks.
func (k *logCheckpoint) next(ctx context.Context, m proofs, marks []store.Bookmark) error {
	s, err := m.state()
	if err != nil {
		return err
	}
	b := &store.Batch{Key: k.key, Expected: k.version, Save: s, Bookmarks: marks}
	err = commit(ctx, k.log, b)
	switch {
	case err == nil:
		k.proofs = m
		if b.Save != nil {
			k.version++
		}
	case !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNotStored):
		k.doubt, k.doubtsThen = s.ID, m
	}
	return err
}

// resolve finds out whether the save whose outcome is not known is stored.
func (k *logCheckpoint) resolve(ctx context.Context) error {
	if k.doubt.IsZero() {
		return nil
	}
	version, id, _, err := k.read(ctx)
	if err != nil {
		return err
	}
	if id == k.doubt {
		k.version, k.proofs = version, k.doubtsThen
	}
	k.doubt = store.ID{}
	return nil
}

// overtake claims the name, if it has ever been claimed, and changes bookmarks with it.
func (k *logCheckpoint) overtake(ctx context.Context, marks []store.Bookmark) (there bool, err error) {
	for range claimTriesMax {
		if k.version, _, _, err = k.read(ctx); err != nil || k.version == 0 {
			return false, err
		}
		if err = k.next(ctx, nil, marks); !errors.Is(err, store.ErrConflict) {
			return err == nil, err
		}
	}
	return false, err
}

// Proofs implements [ProofKeeper].
func (k *logCheckpoint) Proofs() []Proof { return k.claimed }

func (k *logCheckpoint) Save(ctx context.Context, positions []store.Position) error {
	return k.SaveProofs(ctx, proofs(nil).of(positions))
}

// SaveProofs implements [ProofKeeper].
func (k *logCheckpoint) SaveProofs(ctx context.Context, all []Proof) error {
	if err := k.save(ctx, all); errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("save subscription %q: %w", k.name, ErrFenced)
	} else if err != nil {
		return fmt.Errorf("save subscription %q: %w", k.name, err)
	}
	return nil
}

func (k *logCheckpoint) save(ctx context.Context, all []Proof) error {
	if err := k.resolve(ctx); err != nil {
		return err
	}
	if len(all) == 0 {
		return commit(ctx, k.log, &store.Batch{Key: k.key, Expected: k.version})
	}
	var marks []store.Bookmark
	for _, p := range all {
		marks = append(marks, store.Bookmark{Name: BookmarkPrefix + k.name, Position: p.Position})
	}
	return k.next(ctx, k.proofs.with(all), marks)
}

// contain makes an error of a panic of the log. It is deferred where the package calls
// a log on its own account, on a goroutine that is its own or a reader's: a mistake of
// a store ends neither the process nor a reader.
func contain(err *error) { containIn(recover(), err) }

func containIn(value any, err *error) {
	if value != nil {
		*err = &panicError{value, debug.Stack()}
	}
}

// A panicError is a panic of the log.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string {
	return fmt.Sprintf("the log has panicked: %v\n%s", e.value, e.stack)
}

func commit(ctx context.Context, log store.Log, b *store.Batch) (err error) {
	defer contain(&err)
	results, err := log.Commit(ctx, []*store.Batch{b})
	if err != nil {
		return err
	}
	return results[0].Err
}

// newID returns a UUID of version 7.
func newID() (id store.ID) {
	_, _ = rand.Read(id[:]) // it never fails
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(time.Now().UnixMilli()))
	copy(id[:6], ms[2:])
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id
}
