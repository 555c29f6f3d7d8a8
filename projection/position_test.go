package projection_test

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"iter"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/stream"
)

// A restorable log does not tell its id.
type restorable struct{ *memory.Log }

func (restorable) Stats(context.Context) (store.Stats, error) {
	return store.Stats{}, errors.ErrUnsupported
}

// A swapped log can be replaced by another log, as when the log is restored from a backup while
// the program runs.
type swapped struct {
	store.Unsupported
	now atomic.Pointer[memory.Log]
}

func (s *swapped) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	return s.now.Load().Commit(ctx, group)
}

func (s *swapped) Load(ctx context.Context, key store.Key, take func(*store.State) bool) iter.Seq2[*store.Event, error] {
	return s.now.Load().Load(ctx, key, take)
}

func (s *swapped) Read(ctx context.Context, key store.Key, after store.Version) iter.Seq2[*store.Event, error] {
	return s.now.Load().Read(ctx, key, after)
}

func (s *swapped) Scan(ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
	return s.now.Load().Scan(ctx, q)
}

func (s *swapped) Heads(ctx context.Context) ([]store.Position, error) {
	return s.now.Load().Heads(ctx)
}

func (s *swapped) Close() error { return nil }

// depositAs commits deposits of 1 whose ids begin with mark.
func depositAs(t *testing.T, log store.Log, mark byte, id string, expected, n int) {
	t.Helper()
	payload, err := proto.Marshal(&testv1.Deposited{Amount: 1})
	if err != nil {
		t.Fatal(err)
	}
	b := &store.Batch{Key: store.Key{Kind: "account", ID: id}, Expected: store.Version(expected)}
	for i := range n {
		b.Events = append(b.Events, store.Event{ID: store.ID{mark, byte(expected + i)}, Type: "perdure.test.v1.Deposited", Payload: payload})
	}
	if results, err := log.Commit(t.Context(), []*store.Batch{b}); err != nil || results[0].Err != nil {
		t.Fatal(err, results)
	}
}

// failed waits until a runner has failed, and returns the error.
func failed(t *testing.T, r *projection.Runner) error {
	t.Helper()
	for range 1000 {
		if s := status(t, r); s.State == projection.StateFailed {
			return s.Err
		}
		<-time.After(10 * time.Millisecond)
	}
	t.Fatalf("it has not failed in 10 seconds: %+v", status(t, r))
	return nil
}

func TestPosition(t *testing.T) {
	t.Parallel()
	annotated := projection.On(func(context.Context, *memo, projection.Event[*testv1.Annotated]) error { return nil })
	for name, grow := range map[string]int{"below_it": 0, "at_it": 3, "above_it": 9} {
		for kind, p := range map[string]*projection.Projection[*memo]{"wanted": sums(), "unwanted": projection.New("sums", annotated,
			projection.Clear(func(context.Context, *memo) error { return nil }))} {
			t.Run("of_a_log_that_was_restored_and_ends_"+name+"_is_not_believed/"+kind, func(t *testing.T) {
				t.Parallel()
				bubble(t, func(t *testing.T) {
					before, after, g := memory.New(), memory.New(), newTarget()
					depositAs(t, before, 1, "a", 0, 3)
					depositAs(t, after, 1, "a", 0, 3)
					depositAs(t, before, 2, "a", 3, 3)
					r := p.Into(g)
					if err := projection.RunOnce(t.Context(), projection.Config{Log: restorable{before}}, r); err != nil {
						t.Fatal(err)
					}
					if grow > 0 {
						depositAs(t, after, 3, "a", 3, grow)
					}
					c := projection.Config{Log: restorable{after}}
					if err := projection.RunOnce(t.Context(), c, r); !errors.Is(err, projection.ErrReplaced) || !errors.Is(err, projection.ErrStopped) ||
						!strings.Contains(err.Error(), "new Version") {
						t.Errorf("running once says %v", err)
					}
					defer background(t, c, r)()
					if err := failed(t, r); !errors.Is(err, store.ErrInvalid) {
						t.Errorf("it has failed for %v", err)
					}
					if r.Ready(t.Context()) == nil || !errors.Is(r.Healthy(t.Context()), projection.ErrStopped) {
						t.Errorf("ready: %v, healthy: %v", r.Ready(t.Context()), r.Healthy(t.Context()))
					}
					if err := r.AtLeast(t.Context(), position(2)); !errors.Is(err, projection.ErrStopped) {
						t.Errorf("waiting says %v", err)
					}
					if err := r.Reset(t.Context()); err != nil {
						t.Fatal(err)
					}
					depositAs(t, after, 4, "a", 3+grow, 2)
					atLeast(t, r, position(5+grow))
					if kind == "wanted" {
						wantRow(t, g, "sum_v1 a", 5+grow)
					}
				})
			})
		}
	}
	t.Run("of_a_log_that_becomes_another_under_the_runner_is_not_believed", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			before, after, g := memory.New(), memory.New(), newTarget()
			depositAs(t, before, 1, "a", 0, 6)
			depositAs(t, after, 1, "a", 0, 3)
			log := &swapped{}
			log.now.Store(before)
			r := sums().Into(g)
			defer background(t, projection.Config{Log: log}, r)()
			atLeast(t, r, position(6))
			<-time.After(time.Second)
			log.now.Store(after)
			if err := failed(t, r); !errors.Is(err, projection.ErrReplaced) {
				t.Errorf("it has failed for %v", err)
			}
		})
	})
	t.Run("of_a_reset_is_not_above_the_head", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := newLog(t, 1), newTarget()
			deposit(t, log, "a", 0, 3)
			r := sums().Into(g)
			defer background(t, projection.Config{Log: log}, r)()
			atLeast(t, r, position(3))
			if err := r.ResetAfter(t.Context(), []store.Position{position(4)}); !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), "above the head") {
				t.Errorf("it says %v", err)
			}
			if err := r.ResetAfter(t.Context(), []store.Position{position(3)}); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("of_a_copy_is_adopted", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, moved, g := memory.New(), memory.New(), newTarget()
			depositAs(t, log, 1, "a", 0, 3)
			r := sums().Into(g)
			if err := projection.RunOnce(t.Context(), projection.Config{Log: log}, r); err != nil {
				t.Fatal(err)
			}
			if _, err := admin.Copy(t.Context(), log, moved, nil); err != nil {
				t.Fatal(err)
			}
			depositAs(t, moved, 2, "a", 3, 3)
			stop := background(t, projection.Config{Log: moved}, r)
			if err := failed(t, r); !errors.Is(err, projection.ErrOtherLog) || !strings.Contains(err.Error(), "Adopt") {
				t.Errorf("it has failed for %v", err)
			}
			if err := r.Adopt(t.Context()); err != nil {
				t.Fatal(err)
			}
			atLeast(t, r, position(6))
			wantRow(t, g, "sum_v1 a", 6)
			stop()

			third := memory.New()
			if _, err := admin.Copy(t.Context(), moved, third, nil); err != nil {
				t.Fatal(err)
			}
			r = sums().With(projection.AdoptCopies()).Into(g)
			if err := projection.RunOnce(t.Context(), projection.Config{Log: third}, r); err != nil {
				t.Errorf("with the option it says %v", err)
			}
			// From then on the model belongs to that log.
			r = sums().Into(g)
			if err := projection.RunOnce(t.Context(), projection.Config{Log: third}, r); err != nil {
				t.Errorf("without the option, on the log that was adopted, it says %v", err)
			}
			if err := projection.RunOnce(t.Context(), projection.Config{Log: moved}, r); !errors.Is(err, projection.ErrOtherLog) {
				t.Errorf("on the log of before it says %v", err)
			}
		})
	})
	t.Run("that_cannot_be_compared_is_not_adopted_by_the_option", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, other, g := memory.New(), memory.New(), newTarget()
			depositAs(t, log, 1, "a", 0, 3)
			if err := projection.RunOnce(t.Context(), projection.Config{Log: log}, sums().Into(g)); err != nil {
				t.Fatal(err)
			}
			// The notes do not say which event of the other log was at position 3.
			depositAs(t, other, 2, "b", 0, 4)
			covered := &store.Batch{Key: store.Key{Kind: "account", ID: "b"}, Expected: 4, Snapshot: &store.State{
				ID: store.ID{9}, Type: "perdure.test.v1.Account",
			}}
			if results, err := other.Commit(t.Context(), []*store.Batch{covered}); err != nil || results[0].Err != nil {
				t.Fatal(err, results)
			}
			if _, err := other.DeleteEvents(t.Context(), covered.Key, 4, position(3)); err != nil {
				t.Fatal(err)
			}
			r := sums().With(projection.AdoptCopies()).Into(g)
			if err := projection.RunOnce(t.Context(), projection.Config{Log: other}, r); !errors.Is(err, projection.ErrOtherLog) {
				t.Errorf("with the option it says %v", err)
			}
			wantRow(t, g, "count_v1", 3)
		})
	})
	t.Run("of_another_log_is_not_adopted_but_reset_or_removed", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			for _, cure := range []func(*projection.Runner) error{
				func(r *projection.Runner) error { return r.Reset(t.Context()) },
				func(r *projection.Runner) error { return r.Remove(t.Context()) },
			} {
				log, other, g := memory.New(), memory.New(memory.WithPartitions(2)), newTarget()
				depositAs(t, log, 1, "a", 0, 3)
				same := memory.New()
				depositAs(t, same, 2, "a", 0, 3)
				r := sums().Into(g)
				if err := projection.RunOnce(t.Context(), projection.Config{Log: log}, r); err != nil {
					t.Fatal(err)
				}
				for _, l := range []*memory.Log{same, other} {
					stop := background(t, projection.Config{Log: l}, r)
					_ = failed(t, r)
					if err := r.Adopt(t.Context()); !errors.Is(err, projection.ErrOtherLog) {
						t.Errorf("adopting another log says %v", err)
					}
					if l == other {
						if err := cure(r); err != nil {
							t.Error(err)
						}
						<-time.After(time.Second)
						depositAs(t, other, 5, "b", 0, 3)
						<-time.After(time.Second)
						if got := status(t, r); got.State == projection.StateLive && g.row("sum_v1 b") != 3 || g.row("sum_v1 a") != 0 {
							t.Errorf("after the cure it is %+v, with %d of b and %d of a", got, g.row("sum_v1 b"), g.row("sum_v1 a"))
						}
					}
					stop()
				}
			}
		})
	})
	t.Run("in_notes_of_former_times_is_gone_on_from", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := newLog(t, 1), newTarget()
			deposit(t, log, "a", 0, 3)
			deposit(t, log, "bad", 0, 1)
			deposit(t, log, "a", 3, 2)
			// Readers use version 1, which is at 4, with bad parked; version 2 is at 6 already.
			f, err := os.Open("testdata/notes-v1.txt")
			if err != nil {
				t.Fatal(err)
			}
			for s := bufio.NewScanner(f); s.Scan(); {
				key, value, _ := strings.Cut(s.Text(), " ")
				if g.memo.notes[key], err = hex.DecodeString(value); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			var sent []store.Position
			p := projection.New("sums", projection.On(func(ctx context.Context, _ *memo, e projection.Event[*testv1.Deposited]) error {
				if !projection.Replaying(ctx) {
					sent = append(sent, e.Position)
				}
				return nil
			}))
			v1, v2 := p.Into(g), p.With(projection.Version(2)).Into(g)
			defer background(t, projection.Config{Log: log}, v1, v2)()
			atLeast(t, v1, position(6))
			if err := v2.Switch(t.Context()); err != nil {
				t.Fatal(err)
			}
			deposit(t, log, "a", 5, 2)
			atLeast(t, v2, position(8))
			atLeast(t, v1, position(8))
			if err := v1.Retry(t.Context(), store.Key{Kind: "account", ID: "bad"}); err != nil {
				t.Fatal(err)
			}
			if slices.Sort(sent); !slices.Equal(sent, []store.Position{4, 5, 6, 7, 8}) {
				t.Errorf("effects were at %v, want those of 4 to 8", sent)
			}
		})
	})
}

func TestDeletion(t *testing.T) {
	t.Parallel()
	deleteEvents := func(t *testing.T, log *memory.Log, id string, version, below store.Version) {
		t.Helper()
		heads, err := log.Heads(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		covered := &store.Batch{Key: store.Key{Kind: "account", ID: id}, Expected: version, Snapshot: &store.State{
			ID: store.ID{9}, Type: "perdure.test.v1.Account",
		}}
		if results, err := log.Commit(t.Context(), []*store.Batch{covered}); err != nil || results[0].Err != nil {
			t.Fatal(err, results)
		}
		if _, err := log.DeleteEvents(t.Context(), store.Key{Kind: "account", ID: id}, below, heads[0]); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("above_the_position_stops_the_version", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := memory.New(), newTarget()
			deposit(t, log, "a", 0, 3)
			r := sums().Into(g)
			if err := projection.RunOnce(t.Context(), projection.Config{Log: log}, r); err != nil {
				t.Fatal(err)
			}
			deposit(t, log, "a", 3, 4)
			deleteEvents(t, log, "a", 7, 6)
			if err := projection.RunOnce(t.Context(), projection.Config{Log: log}, r); !errors.Is(err, projection.ErrDeleted) || !errors.Is(err, store.ErrInvalid) {
				t.Errorf("it says %v", err)
			}
			wantRow(t, g, "sum_v1 a", sum(3))
			defer background(t, projection.Config{Log: log}, r)()
			_ = failed(t, r)
			if err := r.Reset(t.Context()); err != nil {
				t.Fatal(err)
			}
			atLeast(t, r, position(7))
			wantRow(t, g, "sum_v1 a", 6+7)
			if s := status(t, r); s.Partitions[0].Missing != position(5) {
				t.Errorf("status says that events through %v are missing, want 5", s.Partitions[0].Missing)
			}
			// A new version begins with the events that are left.
			v2 := sums().With(projection.Version(2)).Into(g)
			defer background(t, projection.Config{Log: log}, v2)()
			atLeast(t, v2, position(7))
			wantRow(t, g, "sum_v2 a", 6+7)
		})
	})
	t.Run("of_a_registration_is_noticed", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := memory.New(), newTarget()
			deposit(t, log, "a", 0, 3)
			r := sums().Into(g)
			defer background(t, projection.Config{Log: log}, r)()
			atLeast(t, r, position(3))
			<-time.After(time.Minute)
			if err := stream.NewReaders(log).Remove(t.Context(), "projection/sums/v1"); err != nil {
				t.Fatal(err)
			}
			deposit(t, log, "a", 3, 1)
			atLeast(t, r, position(4))
			<-time.After(time.Minute)
			if m := checkpoints(t, log); len(m) != 1 || m[0].Position != position(4) {
				t.Errorf("checkpoints are %v, want one at 4", m)
			}
		})
	})
	t.Run("of_what_a_parked_entity_misses_is_an_error_of_the_retry", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := memory.New(), newTarget()
			sick := true
			r := picky(func(projection.Event[*testv1.Deposited]) error {
				if sick {
					return errPoison
				}
				return nil
			}).With(attempts(1, 1, 1)).Into(g)
			deposit(t, log, "a", 0, 3)
			defer background(t, projection.Config{Log: log}, r)()
			atLeast(t, r, position(3))
			deleteEvents(t, log, "a", 3, 3)
			sick = false
			if err := r.Retry(t.Context(), store.Key{Kind: "account", ID: "a"}); !errors.Is(err, projection.ErrDeleted) {
				t.Errorf("it says %v", err)
			}
			wantRow(t, g, "sum a", 0)
		})
	})
}
