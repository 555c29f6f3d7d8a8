package projectiontest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/perdure/perdure/store"
)

func lifeCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "what is stored is there when it is opened again", needs: "Reopen", run: func(x *fixture[Tx]) {
			x.store("a", "1")
			_ = x.target.Update(x.ctx, func(tx Tx) error { // this update must fail
				return errors.Join(x.write(tx, "a", "2"), &testError{"no"})
			})
			x.target = x.Reopen(x, x.target)
			x.want("a", "1")
			x.store("b", "2")
			x.target = x.Reopen(x, x.target)
			x.want("a", "1")
			x.want("b", "2")
		}},
		{name: "a second target on the same data sees what is stored", needs: "Another", run: func(x *fixture[Tx]) {
			other := *x
			other.target = x.Another(x, x.target)
			x.store("a", "1")
			other.want("a", "1")
			other.store("a", "2")
			x.want("a", "2")
		}},
		{name: "an error of the commit tells no lies", needs: "FailCommit", run: func(x *fixture[Tx]) {
			for _, stored := range []bool{false, true} {
				key, want := fmt.Sprint("stored ", stored), none
				x.store("before", "1")
				x.FailCommit(x, x.target, stored)
				err := x.target.Update(x.ctx, func(tx Tx) error { return x.write(tx, key, "1") })
				if err == nil {
					x.Errorf("a commit that fails, stored: %t: got no error, want one", stored)
				}
				if stored {
					want = "1"
				}
				if stored && errors.Is(err, store.ErrNotStored) {
					x.Errorf("a commit that is stored: got error %v, want one that does not match %v", err, store.ErrNotStored)
				}
				if x.Reopen != nil {
					x.target = x.Reopen(x, x.target)
				}
				x.want(key, want)
				x.want("before", "1")
			}
		}},
		{name: "random transactions leave what a simple model says", run: func(x *fixture[Tx]) {
			for seed := range uint64(2) {
				x.target = x.open(x)
				x.random(rand.New(rand.NewPCG(seed, 7)))
			}
		}},
	}
}

// random runs random transactions, some of which fail. After each it compares the stored values
// with a map.
func (x *fixture[Tx]) random(random *rand.Rand) {
	const transactions = 40
	want := map[string]string{}
	for i := range transactions {
		next, fails := maps.Clone(want), random.IntN(3) == 0
		type change struct {
			key, value string
			remove     bool
		}
		var changes []change
		for range random.IntN(8) {
			c := change{key: hardKeys[random.IntN(12)], value: fmt.Sprint(i), remove: random.IntN(3) == 0}
			changes = append(changes, c)
			if next[c.key] = c.value; c.remove {
				delete(next, c.key)
			}
		}
		err := x.target.Update(x.ctx, func(tx Tx) error {
			for _, c := range changes {
				value := []byte(c.value)
				if c.remove {
					value = nil
				}
				if err := x.target.SetNote(x.ctx, tx, c.key, value); err != nil {
					return err
				}
			}
			if fails {
				return errRandom
			}
			return nil
		})
		if fails {
			x.wantError("update", err, errRandom)
		} else {
			if err != nil {
				x.Fatalf("update: %v", err)
			}
			want = next
		}
		if x.Reopen != nil && random.IntN(20) == 0 {
			x.target = x.Reopen(x, x.target)
		}
		var lines []string
		for _, k := range slices.Sorted(maps.Keys(want)) {
			lines = append(lines, k+"="+want[k])
		}
		x.view(func(tx Tx) error {
			got, err := x.list(tx, "")
			if err == nil && !slices.Equal(got, lines) {
				x.Fatalf("after transaction %d of %+v, failed: %t\n got %q\nwant %q", i, changes, fails, got, lines)
			}
			return err
		})
	}
}

var errRandom = errors.New("a handler fails now and then")
