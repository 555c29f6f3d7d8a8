package memory

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"
)

// An ordered set has the same elements as a sorted slice after any operations.
func TestOrderedSetEqualsASortedSlice(t *testing.T) {
	t.Parallel()
	const seed, steps, span = 42, 30_000, 3_000
	random := rand.New(rand.NewPCG(seed, seed))
	set := &ordered[int]{compare: cmp.Compare[int]}
	var model []int
	for step := range steps {
		x := random.IntN(span)
		i, found := slices.BinarySearch(model, x)
		// The set grows at first and shrinks in the end.
		if random.IntN(steps) > step {
			set.put(x)
			if !found {
				model = slices.Insert(model, i, x)
			}
		} else {
			set.remove(x)
			if found {
				model = slices.Delete(model, i, i+1)
			}
		}
		if set.length != len(model) {
			t.Fatalf("seed %d, step %d: got %d elements, want %d", seed, step, set.length, len(model))
		}
		y := random.IntN(span)
		i, found = slices.BinarySearch(model, y)
		if _, got := set.get(y); got != found {
			t.Fatalf("seed %d, step %d: get %d: got %t, want %t", seed, step, y, got, found)
		}
		if found {
			i++
		}
		got := set.above(y, make([]int, 0, 10))
		if want := model[i:min(i+10, len(model))]; !slices.Equal(got, want) {
			t.Fatalf("seed %d, step %d: above %d: got %v, want %v", seed, step, y, got, want)
		}
	}
	for i, b := range set.blocks {
		if len(b) == 0 || len(b) > blockMax {
			t.Errorf("block %d has %d elements, want 1 to %d", i, len(b), blockMax)
		}
	}
}
