package streamtest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/stream"
)

// Elsewhere implements [stream.Checkpoints] in memory. It is for tests of subscriptions
// whose checkpoints are not in their log, and an example for an implementation of your
// own. Its checkpoints are [stream.ProofKeeper]s. The zero value is ready to use.
type Elsewhere struct {
	mu    sync.Mutex
	names map[string]*elsewhere
}

type elsewhere struct {
	claims int
	kept   map[int]stream.Proof // proofs by partition
}

// Claim implements [stream.Checkpoints].
func (e *Elsewhere) Claim(ctx context.Context, name string) (stream.CheckpointWriter, []store.Position, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, fmt.Errorf("claim %q: %w", name, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	at := e.names[name]
	if at == nil {
		at = &elsewhere{kept: map[int]stream.Proof{}}
		if e.names == nil {
			e.names = map[string]*elsewhere{}
		}
		e.names[name] = at
	}
	at.claims++
	c := &elsewhereClaim{e: e, at: at, number: at.claims}
	var positions []store.Position
	for _, part := range slices.Sorted(maps.Keys(at.kept)) {
		c.claimed = append(c.claimed, at.kept[part])
		positions = append(positions, at.kept[part].Position)
	}
	return c, positions, nil
}

type elsewhereClaim struct {
	e       *Elsewhere
	at      *elsewhere
	number  int
	claimed []stream.Proof
}

// Proofs implements [stream.ProofKeeper].
func (c *elsewhereClaim) Proofs() []stream.Proof { return c.claimed }

// Save implements [stream.CheckpointWriter].
func (c *elsewhereClaim) Save(ctx context.Context, positions []store.Position) error {
	var proofs []stream.Proof
	for _, p := range positions {
		proofs = append(proofs, stream.Proof{Position: p})
	}
	return c.SaveProofs(ctx, proofs)
}

// SaveProofs implements [stream.ProofKeeper].
func (c *elsewhereClaim) SaveProofs(ctx context.Context, proofs []stream.Proof) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	if c.number != c.at.claims {
		return fmt.Errorf("save: %w", stream.ErrFenced)
	}
	for _, p := range proofs {
		c.at.kept[p.Position.Partition()] = p
	}
	return nil
}
