package projection_test

import (
	"context"
	"errors"
	"iter"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// A badError is an error one of whose methods panics.
type badError struct{ method string }

func (e badError) Error() string { return e.call("Error", "bad") }
func (e badError) Is(error) bool { return e.call("Is", "") != "" }
func (e badError) Unwrap() error { e.call("Unwrap", ""); return nil }

func (e badError) call(method, result string) string {
	if e.method == method {
		panic("in " + method)
	}
	return result
}

type pointerError struct{ text string }

func (e *pointerError) Error() string { return e.text }

type badText struct{}

func (badText) String() string { panic("in String") }

// A badTarget and a badLog call a function before each call, and tell it which call.
type badTarget struct {
	*target
	before func(call string)
}

func (b *badTarget) Update(ctx context.Context, do func(*memo) error) error {
	b.before("Update")
	return b.target.Update(ctx, do)
}

func (b *badTarget) View(ctx context.Context, do func(*memo) error) error {
	b.before("View")
	return b.target.View(ctx, do)
}

func (b *badTarget) Note(ctx context.Context, m *memo, key string) ([]byte, error) {
	b.before("Note")
	return b.target.Note(ctx, m, key)
}

func (b *badTarget) Blame(error) projection.Blame {
	b.before("Blame")
	return projection.BlameUnknown
}

type badLog struct {
	*memory.Log
	before func(call string)
}

func (l *badLog) Heads(ctx context.Context) ([]store.Position, error) {
	l.before("Heads")
	return l.Log.Heads(ctx)
}

func (l *badLog) Scan(ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
	l.before("Scan")
	return l.Log.Scan(ctx, q)
}

func (l *badLog) Read(ctx context.Context, key store.Key, after store.Version) iter.Seq2[*store.Event, error] {
	l.before("Read")
	return l.Log.Read(ctx, key, after)
}

func (l *badLog) Stats(ctx context.Context) (store.Stats, error) {
	l.before("Stats")
	return l.Log.Stats(ctx)
}

func (l *badLog) Checkpoints(ctx context.Context) ([]store.Checkpoint, error) {
	l.before("Checkpoints")
	return l.Log.Checkpoints(ctx)
}

func (l *badLog) Deleted(ctx context.Context) ([]store.Deletion, error) {
	l.before("Deleted")
	return l.Log.Deleted(ctx)
}

func (l *badLog) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	l.before("Commit")
	return l.Log.Commit(ctx, group)
}

// failures panics, or ends the goroutine, a given number of times in one call.
type failures struct {
	call string
	how  string
	left atomic.Int32
}

func (f *failures) before(call string) {
	if call != f.call || f.left.Load() == 0 {
		return
	}
	f.left.Add(-1)
	if f.how == "panics" {
		panic(call)
	}
	runtime.Goexit()
}

func TestForeignCode(t *testing.T) {
	t.Parallel()
	within := func(t *testing.T, r *projection.Runner, p store.Position) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := r.AtLeast(ctx, p); err != nil {
			t.Errorf("waiting for %v says %v", p, err)
		}
	}
	for what, fail := range map[string]func() error{
		"whose_Error_panics":  func() error { return badError{"Error"} },
		"whose_Is_panics":     func() error { return badError{"Is"} },
		"whose_Unwrap_panics": func() error { return badError{"Unwrap"} },
		"that_is_a_nil":       func() error { var e *pointerError; return e },
		"that_is_a_panic":     func() error { panic(badText{}) },
	} {
		for _, batch := range []bool{false, true} {
			name := "an_error_" + what + "_parks_its_entity"
			if batch {
				name += "/of_a_batch"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				bubble(t, func(t *testing.T) {
					log, g := newLog(t, 1), newTarget()
					deposit(t, log, "bad", 0, 3)
					deposit(t, log, "good", 0, 3)
					p := picky(func(e projection.Event[*testv1.Deposited]) error {
						if e.Key.ID == "bad" {
							return fail()
						}
						return nil
					})
					if batch {
						p = projection.New("sums", projection.OnBatch(func(_ context.Context, m *memo, events []projection.AnyEvent) error {
							for _, e := range events {
								if e.Key.ID == "bad" {
									return fail()
								}
								m.rows["sum "+e.Key.ID] += int(e.Version)
							}
							return nil
						}))
					}
					r := p.With(attempts(2, 1, 1)).Into(g)
					defer background(t, projection.Config{Log: log}, r)()
					within(t, r, position(6))
					wantRow(t, g, "sum good", sum(3))
					list := parkedOf(t, r)
					if len(list) != 1 || list[0].Key.ID != "bad" || len(strings.TrimSpace(list[0].Error)) == 0 {
						t.Errorf("parked are %v", list)
					}
				})
			})
		}
	}
	for _, how := range []string{"panics", "ends_its_goroutine"} {
		for _, call := range []string{"Update", "View", "Note", "Blame", "Classify"} {
			t.Run("a_target_that_"+how+"_in_"+call+"_is_no_events_fault", func(t *testing.T) {
				t.Parallel()
				bubble(t, func(t *testing.T) {
					log, g := newLog(t, 1), newTarget()
					f := &failures{call: call, how: how}
					var sick atomic.Bool
					r := picky(func(e projection.Event[*testv1.Deposited]) error {
						if sick.Load() && e.Key.ID == "b" {
							sick.Store(false)
							return errors.New("once")
						}
						return nil
					}).With(attempts(3, 1, 1), projection.Classify(func(error) projection.Blame {
						f.before("Classify")
						return projection.BlameUnknown
					})).Into(&badTarget{g, f.before})
					defer background(t, projection.Config{Log: log}, r)()
					deposit(t, log, "a", 0, 3)
					within(t, r, position(3))
					sick.Store(call == "Blame" || call == "Classify")
					f.left.Store(5)
					deposit(t, log, "b", 0, 3)
					if call == "View" {
						// Of the runner itself, so it makes the runner read its notes again.
						if err := r.Switch(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
					<-time.After(time.Minute)
					within(t, r, position(6))
					wantRow(t, g, "sum a", sum(3))
					wantRow(t, g, "sum b", sum(3))
					if list := parkedOf(t, r); len(list) > 0 {
						t.Errorf("parked is %+v", list[0])
					}
				})
			})
		}
		for _, call := range []string{"Heads", "Scan", "Read", "Stats", "Checkpoints", "Deleted", "Commit"} {
			t.Run("a_log_that_"+how+"_in_"+call+"_is_read_again", func(t *testing.T) {
				t.Parallel()
				bubble(t, func(t *testing.T) {
					m, g := memory.New(), newTarget()
					f := &failures{call: call, how: how}
					f.left.Store(3)
					var sick atomic.Bool
					sick.Store(true)
					r := picky(func(e projection.Event[*testv1.Deposited]) error {
						if sick.Load() && e.Key.ID == "bad" {
							return errPoison
						}
						return nil
					}).With(attempts(1, 1, 1)).Into(g)
					deposit(t, m, "a", 0, 3)
					deposit(t, m, "bad", 0, 2)
					defer background(t, projection.Config{Log: &badLog{m, f.before}}, r)()
					<-time.After(time.Minute) // no call of this goroutine must get the failure
					f.left.Store(3)
					deposit(t, m, "a", 3, 3)
					<-time.After(time.Minute)
					within(t, r, position(8))
					wantRow(t, g, "sum a", sum(6))
					sick.Store(false)
					bad := store.Key{Kind: "account", ID: "bad"}
					for range 3 {
						if err := r.Retry(t.Context(), bad); err == nil {
							break
						}
					}
					if err := r.Retry(t.Context(), bad); err != nil && !errors.Is(err, projection.ErrNotParked) {
						t.Errorf("retrying says %v", err)
					}
					wantRow(t, g, "sum bad", sum(2))
				})
			})
		}
	}
}
