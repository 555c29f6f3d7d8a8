package damage_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/perdure/perdure/internal/damage"
	"github.com/perdure/perdure/store"
)

func TestFirst(t *testing.T) {
	t.Parallel()
	at := func(p store.Position) error { return fmt.Errorf("scan: %w", &store.CorruptError{Position: p}) }
	for _, c := range []struct {
		name string
		err  error
		want store.Position
		ok   bool
	}{
		{"is_the_damaged_event_that_the_error_names", at(7), 7, true},
		{"is_the_next_event_without_a_name", at(0), 5, true},
		{"is_the_next_event_if_the_error_names_one_before", at(3), 5, true},
		{"is_the_next_event_if_the_error_names_one_behind", at(11), 5, true},
		{"is_none_for_another_error", errors.New("down"), 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got, ok := damage.First(4, 10, c.err); got != c.want || ok != c.ok {
				t.Errorf("First(4, 10, %v): got %v, %t, want %v, %t", c.err, got, ok, c.want, c.ok)
			}
		})
	}
}

func TestAt(t *testing.T) {
	t.Parallel()
	t.Run("names_the_position_for_those_who_look_into_the_error", func(t *testing.T) {
		t.Parallel()
		err := damage.At(9, &store.CorruptError{What: "event"}, "restore it")
		c, ok := errors.AsType[*store.CorruptError](err)
		if !ok || c.Position != 9 || !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("At(9): got %v", err)
		}
	})
}
