package admin_test

import (
	"testing"
	"time"

	"github.com/perdure/perdure/store/admin"
)

func TestProgressTellsRateAndRest(t *testing.T) {
	t.Parallel()
	p := admin.Progress{Done: 50, Total: 200, Elapsed: 2 * time.Second}
	if left, ok := p.Left(); p.Rate() != 25 || left != 6*time.Second || !ok {
		t.Errorf("progress: got %v a second and %v left", p.Rate(), left)
	}
	for _, p := range []admin.Progress{{}, {Done: 5, Total: -1, Elapsed: time.Second}, {Total: 9, Elapsed: time.Second}} {
		if left, ok := p.Left(); ok {
			t.Errorf("progress %+v: got %v left, want that it cannot be told", p, left)
		}
	}
}
