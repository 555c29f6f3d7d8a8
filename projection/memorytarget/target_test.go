package memorytarget_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/memorytarget"
	"github.com/perdure/perdure/projection/projectiontest"
	"github.com/perdure/perdure/store"
)

// A shelf is a model of tables, one of them nested, and of plain values.
type shelf struct {
	Names  memorytarget.Table[string, string]
	Counts struct {
		byYear memorytarget.Table[int, int]
		total  int
	}
	last time.Time
}

func newShelf(t testing.TB) *memorytarget.Target[shelf] {
	t.Helper()
	m, err := memorytarget.New(shelf{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestTarget(t *testing.T) {
	t.Parallel()
	t.Run("of_tables_passes_the_suite", func(t *testing.T) {
		t.Parallel()
		projectiontest.Run(t, func(t testing.TB) projection.Target[*shelf] { return newShelf(t) }, projectiontest.Features[*shelf]{
			Put: func(_ context.Context, s *shelf, key, value string) error {
				s.Names.Put(key, value)
				return nil
			},
			Get: func(_ context.Context, s *shelf, key string) (string, bool, error) {
				value, ok := s.Names.Get(key)
				return value, ok, nil
			},
		})
	})
	t.Run("of_a_message_passes_the_suite", func(t *testing.T) {
		t.Parallel()
		projectiontest.Run(t, func(testing.TB) projection.Target[*structpb.Struct] {
			return memorytarget.NewClone(&structpb.Struct{}, proto.CloneOf)
		}, projectiontest.Features[*structpb.Struct]{
			Put: func(_ context.Context, s *structpb.Struct, key, value string) error {
				if s.Fields == nil {
					s.Fields = make(map[string]*structpb.Value)
				}
				s.Fields[key] = structpb.NewStringValue(value)
				return nil
			},
			Get: func(_ context.Context, s *structpb.Struct, key string) (string, bool, error) {
				v, ok := s.GetFields()[key]
				return v.GetStringValue(), ok, nil
			},
		})
	})
	t.Run("rolls_back_plain_fields_too", func(t *testing.T) {
		t.Parallel()
		m := newShelf(t)
		for _, fails := range []bool{false, true, false} {
			err := m.Update(t.Context(), func(s *shelf) error {
				s.Counts.total++
				s.Counts.byYear.Put(1900, s.Counts.total)
				s.last = s.last.Add(time.Hour)
				if fails {
					return errors.New("no")
				}
				return nil
			})
			if (err != nil) != fails {
				t.Fatal(err)
			}
		}
		err := m.View(t.Context(), func(s *shelf) error {
			n, _ := s.Counts.byYear.Get(1900)
			if s.Counts.total != 2 || n != 2 || !s.last.Equal(time.Time{}.Add(2*time.Hour)) {
				t.Errorf("model: got total %d, count %d, time %v; want 2, 2 and two hours", s.Counts.total, n, s.last)
			}
			s.Counts.total = 100 // changes a copy only
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.View(t.Context(), func(s *shelf) error {
			if s.Counts.total != 2 {
				t.Errorf("total after a view has changed its copy: got %d, want 2", s.Counts.total)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("refuses_a_model_whose_copies_share_a_field", func(t *testing.T) {
		t.Parallel()
		for want, open := range map[string]func() error{
			"Loans: two copies of a map": refusal(struct{ Loans map[string]int }{}),
			"a.b: two copies of a slice": refusal(struct{ a struct{ b []int } }{}),
			"Next: two copies of a ptr":  refusal(struct{ Next *loop }{}),
			"F: two copies of a func":    refusal(struct{ F func() }{}),
			"T: values of type []int": refusal(struct {
				T memorytarget.Table[string, []int]
			}{}),
			"T: values of type *memorytarget_test.l": refusal(struct {
				T memorytarget.Table[string, *loop]
			}{}),
			"field Next: two copies of a ptr": refusal(struct {
				T memorytarget.Table[string, loop]
			}{}),
			"A: a table in an array": refusal(struct {
				A [2]memorytarget.Table[int, int]
			}{}),
			"Also: two copies of a map":             refusal(struct{ shelves }{}),
			"memory target for map[string]int: inv": refusal(map[string]int{}),
		} {
			if err := open(); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("new memory: got error %v, want one that says %q", err, want)
			}
		}
	})
	t.Run("changes_no_table_outside_of_its_transaction", func(t *testing.T) {
		t.Parallel()
		m := newShelf(t)
		var kept *shelf
		if err := m.Update(t.Context(), func(s *shelf) error {
			kept = s
			s.Names.Put("a", "1")
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		mustPanic(t, "put after the update", func() { kept.Names.Put("a", "2") })
		mustPanic(t, "delete after the update", func() { kept.Names.Delete("a") })
		if err := m.View(t.Context(), func(s *shelf) error {
			mustPanic(t, "put in a view", func() { s.Names.Put("a", "2") })
			if v, _ := s.Names.Get("a"); v != "1" {
				t.Errorf("got %q, want 1", v)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Note(t.Context(), kept, "n"); err == nil || !strings.Contains(err.Error(), "the transaction has ended") {
			t.Errorf("note after the update: got error %v, want one that says so", err)
		}
		if err := m.SetNote(t.Context(), kept, "n", nil); err == nil {
			t.Error("set a note after the update: got no error")
		}
		for _, err := range m.Notes(t.Context(), kept, "") {
			if err == nil {
				t.Error("notes after the update: got a note, want an error")
			}
		}
	})
	t.Run("runs_a_view_and_an_update_at_the_same_time", func(t *testing.T) {
		t.Parallel()
		m := newShelf(t)
		err := m.View(t.Context(), func(before *shelf) error {
			return m.Update(t.Context(), func(s *shelf) error {
				s.Names.Put("a", "1")
				return m.View(t.Context(), func(during *shelf) error {
					if before.Names.Len() != 0 || during.Names.Len() != 0 || s.Names.Len() != 1 {
						t.Errorf("entries before, during and in the update: got %d, %d, %d; want 0, 0, 1",
							before.Names.Len(), during.Names.Len(), s.Names.Len())
					}
					return nil
				})
			})
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	t.Run("serves_many_readers_of_one_view", func(t *testing.T) {
		t.Parallel()
		m := newShelf(t)
		if err := m.Update(t.Context(), func(s *shelf) error {
			for i := range 1000 {
				s.Counts.byYear.Put(i, i)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := m.View(t.Context(), func(s *shelf) error {
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					sum := 0
					for _, v := range s.Counts.byYear.All() {
						sum += v
					}
					if sum != 499500 {
						t.Errorf("sum: got %d, want 499500", sum)
					}
				})
			}
			wg.Wait()
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("needs_a_model_and_a_function", func(t *testing.T) {
		t.Parallel()
		mustPanic(t, "no model", func() { memorytarget.NewClone(nil, proto.CloneOf[*structpb.Struct]) })
		mustPanic(t, "a function that does not copy", func() {
			memorytarget.NewClone(&structpb.Struct{}, func(m *structpb.Struct) *structpb.Struct { return m })
		})
		mustPanic(t, "no function", func() { memorytarget.NewClone(&structpb.Struct{}, nil) })
		if err := newShelf(t).Update(t.Context(), func(*shelf) error { return store.ErrClosed }); !errors.Is(err, store.ErrClosed) {
			t.Errorf("update: got error %v, want %v", err, store.ErrClosed)
		}
	})
	t.Run("stores_nothing_if_the_context_ends_in_the_transaction", func(t *testing.T) {
		t.Parallel()
		m, err := memorytarget.New(struct{ N int }{})
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

type loop struct{ Next *loop }

// shelves has the methods of its embedded table.
type shelves struct {
	memorytarget.Table[string, int]
	Also map[string]int
}

func refusal[M any](model M) func() error {
	return func() error {
		_, err := memorytarget.New(model)
		return err
	}
}

func mustPanic(t *testing.T, what string, do func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Errorf("%s: got no panic, want one", what)
		}
	}()
	do()
}
