package projection_test

import (
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
