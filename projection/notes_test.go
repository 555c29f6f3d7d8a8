package projection_test

import (
	"context"
	"errors"
	"testing"

	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
)

func TestTargetWithoutTransactions(t *testing.T) {
	t.Parallel()
	t.Run("stores_no_note_over_one_that_has_changed_since_it_was_read", func(t *testing.T) {
		t.Parallel()
		g := newTarget()
		plain := projection.NewExternalTarget(g, 0)
		err := plain.Update(t.Context(), func(p *projection.External[int]) error {
			if _, err := plain.Note(t.Context(), p, "position"); err != nil {
				return err
			}
			g.set(func(g *target) { g.memo.notes["position"] = []byte("of another runner") })
			return plain.SetNote(t.Context(), p, "position", []byte("mine"))
		})
		if !errors.Is(err, store.ErrNotStored) {
			t.Errorf("it says %v", err)
		}
		g.set(func(g *target) {
			if got := string(g.memo.notes["position"]); got != "of another runner" {
				t.Errorf("the note is %q", got)
			}
		})
	})
}

func TestMemoryTarget(t *testing.T) {
	t.Parallel()
	t.Run("stores_nothing_if_the_context_ends_in_the_transaction", func(t *testing.T) {
		t.Parallel()
		m, err := projection.NewMemory(struct{ N int }{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		err = m.Update(ctx, func(m *struct{ N int }) error {
			m.N++
			cancel()
			return nil
		})
		if !errors.Is(err, store.ErrNotStored) || !errors.Is(err, context.Canceled) {
			t.Errorf("it says %v", err)
		}
		if err := m.View(t.Context(), func(m *struct{ N int }) error {
			if m.N != 0 {
				t.Errorf("it has stored %d", m.N)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	})
}
