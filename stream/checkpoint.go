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

// ErrFenced ends a subscription whose name was claimed again, for example by another
// process.
var ErrFenced = errors.New("subscription is taken over")

// Checkpoints keep the positions of subscriptions by name. An implementation
// must pass [github.com/perdure/perdure/stream/streamtest.RunCheckpoints].
//
// A subscription whose checkpoints are not in the log that it reads has a checkpoint in
// that log as well, [CheckpointPrefix] and its name, which follows the saved positions.
// With it the log keeps the events that the subscription has not yet read, also while
// the subscription is closed. An operator removes a subscription that does not come
// back from both places; from the log by [Readers.Remove] or the command "perdure
// readers".
//
// If the log is restored from a backup, positions that were saved later are above the
// head of the log, or belong to other events. [Hub.Subscribe] then returns an error
// matching [ErrReplaced]; with a [ProofKeeper] it always notices that. The operator
// then removes the position from the checkpoints, and the subscription begins from the
// start.
type Checkpoints interface {
	// Claim makes the caller the only owner of a name and returns its saved positions:
	// at most one for each partition, and none for a partition that was never saved.
	// After Claim, saves by earlier owners fail, and the returned positions include all
	// that they have saved.
	Claim(ctx context.Context, name string) (CheckpointWriter, []store.Position, error)
}

// A CheckpointWriter saves the positions of one claimed name.
type CheckpointWriter interface {
	// Save stores positions, at most one for each partition, in place of the earlier
	// positions of the same partitions. It stores all of them or none, and they are
	// durable once it returns nil. It returns an error matching [ErrFenced], and stores
	// nothing, if the name was claimed again. After any other error the outcome is
	// unknown. Only one goroutine at a time calls it.
	Save(ctx context.Context, positions []store.Position) error
}

// Names under which [LogCheckpoints] keeps things in a log.
const (
	// CheckpointPrefix precedes the name of a subscription in the name of its checkpoint:
	// the checkpoint of "mail" is "subscription/mail".
	CheckpointPrefix = "subscription/"
	// ClaimKind is the kind of the entities whose versions count the claims and saves
	// of a name.
	ClaimKind = "perdure.subscription"
)

// A ProofKeeper is a [CheckpointWriter] that keeps, with each position, the id of the event
// at it. A subscription checks these proofs when it begins. It then notices if the log
// was restored from a backup or replaced. Without proofs it notices only a position
// above the head of the log. This interface is optional.
type ProofKeeper interface {
	CheckpointWriter
	// Proofs returns the proof of each position that Claim has returned. A position
	// that was saved by Save has a proof without an event.
	Proofs() []Proof
	// SaveProofs stores positions with their proofs, and otherwise does the same as
	// Save.
	SaveProofs(ctx context.Context, proofs []Proof) error
}

// LogCheckpoints returns checkpoints that are checkpoints of the log. Each name has a
// durable-state entity of the kind [ClaimKind]. Each claim and each save writes the
// next version of it, and a save expects the version that its owner has written last.
// So an owner whose name was claimed again cannot save. The state keeps the proofs of
// the positions. If the store keeps no checkpoints, Claim returns an error matching
// [errors.ErrUnsupported].
//
// A backup of the log includes its subscriptions. After a restore they are at their
// positions of that time, so they deliver every commit that is stored after the
// restore, and cannot skip commits because of a later position.
func LogCheckpoints(log store.Log) Checkpoints { return logCheckpoints{log} }

type logCheckpoints struct{ log store.Log }

// claimTriesMax bounds the attempts of a claim while others claim the same name.
const claimTriesMax = 16

func (c logCheckpoints) Claim(ctx context.Context, name string) (CheckpointWriter, []store.Position, error) {
	if err := store.ValidateName("subscription name", CheckpointPrefix+name); err != nil {
		return nil, nil, err
	}
	k := &logCheckpoint{log: c.log, name: name, key: store.Key{Kind: ClaimKind, ID: name}}
	if err := k.claim(ctx); err != nil {
		return nil, nil, fmt.Errorf("claim subscription %q: %w", name, err)
	}
	all, err := c.log.Checkpoints(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("claim subscription %q: %w", name, err)
	}
	var positions []store.Position
	for _, m := range all {
		if m.Name == CheckpointPrefix+name {
			positions = append(positions, m.Position)
		}
	}
	k.claimed = k.proofs.of(positions)
	return k, positions, nil
}

// proofs holds the proofs of one name by partition.
type proofs map[int]Proof

// of returns the proofs of positions. A position that is not in the map gets a proof
// without an event.
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

// with returns a copy in which the given proofs replace those of the same partitions.
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

// state encodes the proofs as the state of the entity.
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
		return m, nil // an earlier version of this package has saved the state, without proofs
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

// A logCheckpoint is the owner of one name in a log. Until another claim it alone
// writes versions of the entity, so a save that expects its last version fails after
// another claim.
type logCheckpoint struct {
	log     store.Log
	name    string
	key     store.Key
	claimed []Proof

	version store.Version // version of the claim or of the last save
	proofs  proofs        // proofs as of that version
	// doubt is the id of the state of a save whose outcome is unknown, and doubtsThen
	// are the proofs if that save is stored.
	doubt      store.ID
	doubtsThen proofs
}

// read returns the version, the id and the proofs of the stored state.
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

// claim writes the next version of the entity, with unchanged proofs.
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

// next stores the next version together with checkpoints, in one batch.
func (k *logCheckpoint) next(ctx context.Context, m proofs, marks []store.Checkpoint) error {
	s, err := m.state()
	if err != nil {
		return err
	}
	b := &store.Batch{Key: k.key, Expected: k.version, Save: s, Checkpoints: marks}
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

// resolve reads whether the save whose outcome is unknown is stored.
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

// overtake claims the name in the batch that changes the checkpoints. It reports false if
// the name was never claimed.
func (k *logCheckpoint) overtake(ctx context.Context, marks []store.Checkpoint) (there bool, err error) {
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
	var marks []store.Checkpoint
	for _, p := range all {
		marks = append(marks, store.Checkpoint{Name: CheckpointPrefix + k.name, Position: p.Position})
	}
	return k.next(ctx, k.proofs.with(all), marks)
}

// contain turns a panic of the log into an error. It is deferred around calls of the
// log, on goroutines of the package and of readers, so that a bug in a store ends
// neither the process nor a reader.
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
	_, _ = rand.Read(id[:]) // rand.Read never fails
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(time.Now().UnixMilli()))
	copy(id[:6], ms[2:])
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id
}
