package memorytarget_test

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/perdure/perdure/projection/memorytarget"
)

type numbers struct{ t memorytarget.Table[int, int] }

// A snapshot is a copy of a table, with the entries that it must keep.
type snapshot struct {
	table memorytarget.Table[int, int]
	want  map[int]int
}

func (s *snapshot) check(t *testing.T) {
	t.Helper()
	keys := slices.Sorted(maps.Keys(s.want))
	var got, back []int
	for k, v := range s.table.All() {
		if v != s.want[k] {
			t.Fatalf("value of %d: got %d, want %d", k, v, s.want[k])
		}
		got = append(got, k)
	}
	for k := range s.table.Backward() {
		back = append(back, k)
	}
	slices.Reverse(back)
	if !slices.Equal(got, keys) || !slices.Equal(back, keys) || s.table.Len() != len(keys) {
		t.Fatalf("keys of %d entries\n forward %v\nbackward %v\n    want %v", s.table.Len(), got, back, keys)
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	t.Run("holds_in_each_snapshot_what_a_map_would", func(t *testing.T) {
		t.Parallel()
		for seed := range uint64(6) {
			random := rand.New(rand.NewPCG(seed, 1))
			span := []int{20, 100, 2000}[seed%3]
			m, err := memorytarget.New(numbers{})
			if err != nil {
				t.Fatal(err)
			}
			want := map[int]int{}
			var kept []snapshot
			for round := range 60 {
				next, fails := maps.Clone(want), random.IntN(3) == 0
				grows := random.IntN(2) == 0
				err := m.Update(t.Context(), func(n *numbers) error {
					for i := range random.IntN(span) {
						k := random.IntN(span)
						if random.IntN(4) == 0 == grows {
							_, had := next[k]
							if got := n.t.Delete(k); got != had {
								t.Fatalf("delete %d: got %t, want %t", k, got, had)
							}
							delete(next, k)
						} else {
							n.t.Put(k, round*1000+i)
							next[k] = round*1000 + i
						}
					}
					for range 10 {
						k := random.IntN(span)
						v, ok := n.t.Get(k)
						if w, had := next[k]; v != w || ok != had {
							t.Fatalf("get %d: got %d, %t, want %d, %t", k, v, ok, w, had)
						}
						from := 0
						for range n.t.From(k) {
							from++
						}
						all := 0
						for other := range next {
							if other >= k {
								all++
							}
						}
						if from != all {
							t.Fatalf("from %d: got %d entries, want %d", k, from, all)
						}
					}
					if fails {
						return fmt.Errorf("no")
					}
					return nil
				})
				if (err != nil) != fails {
					t.Fatal(err)
				}
				if !fails {
					want = next
				}
				if err := m.View(t.Context(), func(n *numbers) error {
					kept = append(kept, snapshot{n.t, maps.Clone(want)})
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				for range 5 {
					kept[random.IntN(len(kept))].check(t)
				}
			}
			for i := range kept {
				kept[i].check(t)
			}
		}
	})
	t.Run("may_be_copied_outside_of_a_target", func(t *testing.T) {
		t.Parallel()
		a := snapshot{want: map[int]int{}}
		for i := range 200 {
			a.table.Put(i, i)
			a.want[i] = i
		}
		b := snapshot{a.table, maps.Clone(a.want)}
		for i := range 200 {
			if i%2 == 0 {
				a.table.Delete(i)
				delete(a.want, i)
				b.table.Put(i, -i)
				b.want[i] = -i
			}
		}
		a.check(t)
		b.check(t)
	})
	t.Run("iterates_over_the_entries_of_the_beginning", func(t *testing.T) {
		t.Parallel()
		m, err := memorytarget.New(numbers{})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Update(t.Context(), func(n *numbers) error {
			for i := range 500 {
				n.t.Put(i, i)
			}
			seen := 0
			for k, v := range n.t.All() {
				if k != seen || v != k {
					t.Fatalf("entry %d: got %d = %d", seen, k, v)
				}
				seen++
				n.t.Delete(k)
				n.t.Put(-k-1, 0)
				n.t.Put(min(k+1, 499), -1)
			}
			if seen != 500 || n.t.Len() != 501 {
				t.Errorf("got %d entries on the way and %d at the end, want 500 and 501", seen, n.t.Len())
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("shares_no_value_with_the_caller", func(t *testing.T) {
		t.Parallel()
		var lists memorytarget.Table[string, list]
		given := list{[]string{"a"}}
		lists.Put("l", given)
		given.items[0] = "spoilt"
		got, _ := lists.Get("l")
		got.items[0] = "spoilt"
		for _, l := range lists.All() {
			l.items[0] = "spoilt"
		}
		if got, _ := lists.Get("l"); got.items[0] != "a" {
			t.Errorf("list: got %q, want a", got.items)
		}

		var messages memorytarget.Table[string, *wrapperspb.StringValue]
		message := wrapperspb.String("a")
		messages.Put("m", message)
		message.Value = "spoilt"
		read, _ := messages.Get("m")
		read.Value = "spoilt"
		for _, m := range messages.Backward() {
			m.Value = "spoilt"
		}
		if got, _ := messages.Get("m"); got.GetValue() != "a" {
			t.Errorf("message: got %q, want a", got.GetValue())
		}
	})
	t.Run("refuses_values_that_share_memory", func(t *testing.T) {
		t.Parallel()
		var maps memorytarget.Table[string, map[string]int]
		mustPanic(t, "put a map", func() { maps.Put("m", nil) })
	})
	t.Run("holds_one_entry_for_keys_that_are_not_a_number", func(t *testing.T) {
		t.Parallel()
		var floats memorytarget.Table[float64, int]
		for i, k := range []float64{1, math.NaN(), math.Inf(-1), math.NaN(), 0} {
			floats.Put(k, i)
		}
		var got []float64
		for k := range floats.All() {
			got = append(got, k)
		}
		if want := []float64{math.NaN(), math.Inf(-1), 0, 1}; slices.CompareFunc(got, want, cmp.Compare[float64]) != 0 {
			t.Errorf("keys: got %v, want %v", got, want)
		}
	})
}

// A list has a Clone method, so it may be a value.
type list struct{ items []string }

func (l list) Clone() list { return list{slices.Clone(l.items)} }

func BenchmarkTablePut(b *testing.B) {
	m, err := memorytarget.New(numbers{})
	if err != nil {
		b.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 1))
	const batch = 500
	b.ReportAllocs()
	for b.Loop() {
		if err := m.Update(b.Context(), func(n *numbers) error {
			for range batch {
				n.t.Put(random.IntN(1_000_000), 1)
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*batch/b.Elapsed().Seconds(), "puts/s")
}
