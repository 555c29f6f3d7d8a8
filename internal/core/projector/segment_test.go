package projector_test

import (
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/perdure/perdure/internal/core/projector"
)

var seeds = flag.Int("seeds", 150, "how many worlds are tried")

// steps is the number of steps of a world.
const steps = 1400

func TestReadModelIsTheFoldOfTheLogWhateverFails(t *testing.T) {
	t.Parallel()
	stats := map[string]int{}
	for seed := range uint64(*seeds) {
		w := newWorld(seed)
		if err := w.run(steps); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for k, n := range w.stats {
			stats[k] += n
		}
	}
	for _, k := range []string{"refused", "moved", "failed", "unknown", "parked", "unparked", "dead", "reset", "stopped", "switched", "removed", "taken"} {
		if stats[k] == 0 {
			t.Errorf("no world has ever seen %q: %v", k, stats)
		}
	}
}

func TestWorldCatchesBrokenSegments(t *testing.T) {
	t.Parallel()
	for _, faults := range [][]string{
		{positionFirst},
		{noCompare},
		{noCompare, projector.ForgetUnknown, oneRunner},
		{parkNoVersion},
		{unparkFirst},
		{ignoreParked},
		{replayedAreNew},
		{switchAPoint},
		{neverHolds},
		{forgetDone},
		{takeForgets},
		{projector.ForgetFiltered},
		{projector.ForgetWindow},
	} {
		t.Run(strings.Join(faults, " and "), func(t *testing.T) {
			t.Parallel()
			const tries = 200
			for seed := range uint64(tries) {
				if err := newWorld(seed, faults...).run(steps); err != nil {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Error(fmt.Errorf("not caught in %d worlds", tries))
		})
	}
}
