package streamtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/stream"
)

// RunCheckpoints runs every case against checkpoints from open, each case as a parallel
// subtest of t. Each call of open must return new, empty checkpoints.
func RunCheckpoints(t *testing.T, open func(t testing.TB) stream.Checkpoints) {
	for _, c := range checkpointCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(keeper{t, open(t)})
		})
	}
}

// A keeper holds the checkpoints under test.
type keeper struct {
	testing.TB
	checkpoints stream.Checkpoints
}

var checkpointCases = []struct {
	name string
	run  func(keeper)
}{
	{"a new name has no positions", func(k keeper) {
		k.claim("a")
		k.claim("a")
	}},
	{"positions are there for the next one who claims the name", func(k keeper) {
		c := k.claim("a")
		k.save(c, 7)
		c = k.claim("a", 7)
		k.save(c, 9)
		k.claim("a", 9)
	}},
	{"a position at the very beginning is kept", func(k keeper) {
		k.save(k.claim("a"), store.NewPosition(3, 0))
		k.claim("a", store.NewPosition(3, 0))
	}},
	{"each partition keeps its own position", func(k keeper) {
		one, two, last := store.NewPosition(1, 5), store.NewPosition(2, 6), store.LastPosition(store.PartitionsMax-1)
		c := k.claim("a")
		k.save(c, 4, one)
		k.save(c, two, last)
		k.save(c, one+10)
		k.claim("a", 4, one+10, two, last)
	}},
	{"names are kept apart", func(k keeper) {
		names := []string{"a", "aa", "a/b", "A", "é", "a b", "a%"}
		for i, name := range names {
			k.save(k.claim(name), store.Position(i+1))
		}
		for i, name := range names {
			k.claim(name, store.Position(i+1))
		}
	}},
	{"saving nothing changes nothing", func(k keeper) {
		c := k.claim("a")
		k.save(c, 4)
		k.save(c)
		k.claim("a", 4)
	}},
	{"whoever has been overtaken cannot save", func(k keeper) {
		first := k.claim("a")
		k.save(first, 4)
		second := k.claim("a", 4)
		k.wantFenced(first, 5, store.NewPosition(1, 1))
		k.save(second, 6)
		k.wantFenced(first, 7)
		third := k.claim("a", 6)
		k.wantFenced(second, 8)
		k.wantFenced(first, 9)
		k.save(third, 10)
		k.claim("a", 10)
	}},
	{"a claim of one name leaves others alone", func(k keeper) {
		c := k.claim("a")
		k.claim("b")
		k.save(c, 4)
		k.claim("a", 4)
	}},
	{"of many who claim a name at once one can save", func(k keeper) {
		const claims = 8
		held := make([]stream.CheckpointWriter, claims)
		var wg sync.WaitGroup
		for i := range claims {
			wg.Go(func() {
				c, _, err := k.checkpoints.Claim(k.Context(), "a")
				if err != nil {
					k.Errorf("claim: %v", err)
				}
				held[i] = c
			})
		}
		wg.Wait()
		kept := 0
		for i, c := range held {
			if c == nil {
				return
			}
			switch err := c.Save(k.Context(), []store.Position{store.Position(i + 1)}); {
			case err == nil:
				kept++
			case !errors.Is(err, stream.ErrFenced):
				k.Errorf("save: got error %v, want %v", err, stream.ErrFenced)
			}
		}
		if kept != 1 {
			k.Errorf("of %d who have claimed the name at once: %d can save, want 1", claims, kept)
		}
	}},
	{"proofs are there for the next one who claims the name, if any are kept", func(k keeper) {
		c, keeps := k.claim("a").(stream.ProofKeeper)
		if !keeps {
			return
		}
		one, two := stream.Proof{Position: 4, Event: store.ID{1}}, stream.Proof{Position: store.NewPosition(1, 5), Event: store.ID{2}}
		k.wantProofs(c)
		k.saveProofs(c, one, two)
		c = k.claim("a", 4, two.Position).(stream.ProofKeeper)
		k.wantProofs(c, one, two)
		k.saveProofs(c, stream.Proof{Position: 6, Event: store.ID{3}})
		k.save(c, store.NewPosition(1, 7)) // without an event, in place of a proof with one
		c = k.claim("a", 6, store.NewPosition(1, 7)).(stream.ProofKeeper)
		k.wantProofs(c, stream.Proof{Position: 6, Event: store.ID{3}}, stream.Proof{Position: store.NewPosition(1, 7)})
		second := k.claim("a", 6, store.NewPosition(1, 7)).(stream.ProofKeeper)
		if err := c.SaveProofs(k.Context(), []stream.Proof{{Position: 9, Event: store.ID{4}}}); !errors.Is(err, stream.ErrFenced) {
			k.Errorf("save proofs by an earlier owner of the name: got error %v, want %v", err, stream.ErrFenced)
		}
		k.saveProofs(second, stream.Proof{Position: 8, Event: store.ID{5}})
	}},
	{"a claim under a context that has ended fails", func(k keeper) {
		ctx, cancel := context.WithCancel(k.Context())
		cancel()
		if _, _, err := k.checkpoints.Claim(ctx, "a"); !errors.Is(err, context.Canceled) {
			k.Errorf("claim: got error %v, want %v", err, context.Canceled)
		}
	}},
}

// claim claims a name and expects these positions.
func (k keeper) claim(name string, want ...store.Position) stream.CheckpointWriter {
	k.Helper()
	c, got, err := k.checkpoints.Claim(k.Context(), name)
	if err != nil {
		k.Fatalf("claim %q: %v", name, err)
	}
	got = slices.Clone(got)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		k.Errorf("positions of %q: got %v, want %v", name, fmt.Sprint(got), fmt.Sprint(want))
	}
	return c
}

func (k keeper) save(c stream.CheckpointWriter, positions ...store.Position) {
	k.Helper()
	if err := c.Save(k.Context(), positions); err != nil {
		k.Fatalf("save %v: %v", positions, err)
	}
}

func (k keeper) wantFenced(c stream.CheckpointWriter, positions ...store.Position) {
	k.Helper()
	if err := c.Save(k.Context(), positions); !errors.Is(err, stream.ErrFenced) {
		k.Errorf("save %v by an earlier owner of the name: got error %v, want %v", positions, err, stream.ErrFenced)
	}
}

func (k keeper) saveProofs(c stream.ProofKeeper, proofs ...stream.Proof) {
	k.Helper()
	if err := c.SaveProofs(k.Context(), proofs); err != nil {
		k.Fatalf("save %+v: %v", proofs, err)
	}
}

func (k keeper) wantProofs(c stream.ProofKeeper, want ...stream.Proof) {
	k.Helper()
	got := slices.SortedFunc(slices.Values(c.Proofs()), func(a, b stream.Proof) int { return cmp.Compare(a.Position, b.Position) })
	if !slices.Equal(got, want) {
		k.Errorf("proofs: got %+v, want %+v", got, want)
	}
}
