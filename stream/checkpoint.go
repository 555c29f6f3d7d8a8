package stream

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/perdure/perdure/internal/canary"
	"github.com/perdure/perdure/store"
)

// ErrFenced ends a subscription whose name somebody else has claimed since.
var ErrFenced = errors.New("subscription is taken over")

// Checkpoints keep the positions of subscriptions by name. An implementation
// must pass [github.com/perdure/perdure/stream/streamtest.RunCheckpoints].
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

// LogCheckpoints returns checkpoints that are bookmarks of the log. Its claims
// are a durable-state entity for each name, of the kind [ClaimKind]: a claim makes
// the next version, and every save depends on it, so whoever has been overtaken
// cannot save. A log without [store.Bookmarks] cannot be used: Claim returns an
// error matching [errors.ErrUnsupported].
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
	return k, positions, nil
}

type logCheckpoint struct {
	log     store.Log
	name    string
	key     store.Key
	version store.Version // of the claim
}

// claim makes the next version of the entity that counts the claims.
func (k *logCheckpoint) claim(ctx context.Context) error {
	var err error
	for range claimTriesMax {
		k.version = 0
		for _, err := range k.log.Load(ctx, k.key, func(s *store.State) bool {
			k.version = s.Version
			return true
		}) {
			if err != nil {
				return err
			}
		}
		b := &store.Batch{Key: k.key, Expected: k.version, Save: &store.State{ID: newID(), Type: "google.protobuf.Empty"}}
		if err = commit(ctx, k.log, b); err == nil {
			k.version++
			return nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return err
}

func (k *logCheckpoint) Save(ctx context.Context, positions []store.Position) error {
	b := &store.Batch{Key: k.key, Expected: k.version}
	if canary.Broken("claim-not-fenced") {
		b.Key, b.Expected = store.Key{}, 0
	}
	for _, p := range positions {
		b.Bookmarks = append(b.Bookmarks, store.Bookmark{Name: BookmarkPrefix + k.name, Position: p})
	}
	err := commit(ctx, k.log, b)
	if errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("save subscription %q: %w", k.name, ErrFenced)
	}
	if err != nil {
		return fmt.Errorf("save subscription %q: %w", k.name, err)
	}
	return nil
}

func commit(ctx context.Context, log store.Log, b *store.Batch) error {
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
