package storeclock_test

import (
	"testing"
	"time"

	"github.com/perdure/perdure/internal/storeclock"
)

func TestClock(t *testing.T) {
	t.Parallel()
	var c storeclock.Clock
	var passed time.Duration
	elapsed := func() time.Duration { return passed }
	if got := c.Now(elapsed); !got.IsZero() {
		t.Errorf("before the first commit: got %v, want the zero time", got)
	}
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		does  string
		after time.Duration // elapsed time of the engine
		heard time.Time
		want  time.Time
	}{
		{"follows_the_first_commit", 0, noon, noon},
		{"goes_on_without_commits", time.Hour, time.Time{}, noon.Add(time.Hour)},
		{"follows_a_step_forward", 2 * time.Hour, noon.Add(24 * time.Hour), noon.Add(24 * time.Hour)},
		{"follows_a_step_back", 3 * time.Hour, noon.Add(-24 * time.Hour), noon.Add(-24 * time.Hour)},
		{"goes_on_after_a_step_back", 4 * time.Hour, time.Time{}, noon.Add(-23 * time.Hour)},
	} {
		passed = tt.after
		if !tt.heard.IsZero() {
			c.Heard(tt.heard, elapsed)
		}
		if got := c.Now(elapsed); !got.Equal(tt.want) {
			t.Errorf("%s: got %v, want %v", tt.does, got, tt.want)
		}
	}
}
