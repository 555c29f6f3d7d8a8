package projection_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
)

// spoilable is a target whose transactions a rule can spoil, and which may refuse to
// write.
type spoilable struct {
	*target
	spoilt  map[*memo]bool
	refuses atomic.Int32 // the number of next writes to refuse
	parks   atomic.Int32 // the number of next writes of parked entities to refuse
}

var (
	errSpoiltTx = errors.New("current transaction is aborted")
	errFull     = errors.New("no room")
)

func (s *spoilable) Note(ctx context.Context, m *memo, key string) ([]byte, error) {
	if s.spoilt[m] {
		return nil, errSpoiltTx
	}
	return s.target.Note(ctx, m, key)
}

func (s *spoilable) SetNote(ctx context.Context, m *memo, key string, value []byte) error {
	switch {
	case s.spoilt[m]:
		return errSpoiltTx
	case s.refuses.Load() > 0:
		s.refuses.Add(-1)
		return errFull
	case strings.Contains(key, "/parked/") && s.parks.Load() > 0:
		s.parks.Add(-1)
		return errFull
	}
	return s.target.SetNote(ctx, m, key, value)
}

func TestBlame(t *testing.T) {
	t.Parallel()
	parkable := func(t *testing.T, log store.Log, r *projection.Runner) {
		t.Helper()
		deposit(t, log, "good", 0, 3)
		deposit(t, log, "bad", 0, 2)
		deposit(t, log, "other", 0, 3)
		atLeast(t, r, position(8))
	}
	for name, c := range map[string]struct {
		err  error
		want int // number of parked entities
	}{
		"a_full_disk_parks_no_entity":              {fmt.Errorf("write row: %w", syscall.ENOSPC), 0},
		"a_disk_that_fails_parks_no_entity":        {syscall.EIO, 0},
		"what_the_option_says_so_of_is_no_event's": {errors.New("service is away"), 0},
		"an_error_of_an_event_parks_its_entity":    {errPoison, 1},
		"an_event_is_blamed_by_the_option_first":   {fmt.Errorf("bad file: %w", syscall.EIO), 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				log, g := newLog(t, 1), newTarget()
				begun := time.Now()
				r := picky(func(e projection.Event[*testv1.Deposited]) error {
					if e.Key.ID == "bad" && time.Since(begun) < time.Minute {
						return c.err
					}
					return nil
				}).With(projection.Classify(func(err error) projection.Blame {
					switch {
					case strings.Contains(err.Error(), "away"):
						return projection.BlameTarget
					case strings.Contains(err.Error(), "bad file"):
						return projection.BlameEvent
					}
					return projection.BlameUnknown
				})).Into(g)
				defer background(t, projection.Config{Log: log}, r)()
				parkable(t, log, r)
				if n := len(parkedOf(t, r)); n != c.want {
					t.Errorf("%d entities are parked, want %d", n, c.want)
				}
				wantRow(t, g, "sum good", sum(3))
				wantRow(t, g, "sum other", sum(3))
			})
		})
	}
	t.Run("an_event_that_is_hopeless_is_tried_once", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := newLog(t, 1), newTarget()
			tries := 0
			r := picky(func(e projection.Event[*testv1.Deposited]) error {
				if e.Key.ID == "bad" {
					tries++
					return errPoison
				}
				return nil
			}).With(projection.Classify(func(error) projection.Blame { return projection.BlameHopeless })).Into(g)
			defer background(t, projection.Config{Log: log}, r)()
			deposit(t, log, "bad", 0, 1)
			atLeast(t, r, position(1))
			if tries != 1 {
				t.Errorf("it was tried %d times", tries)
			}
		})
	})
	t.Run("a_target_that_reads_and_does_not_write_parks_no_entity", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := newLog(t, 1), &spoilable{target: newTarget()}
			full := true
			r := picky(func(projection.Event[*testv1.Deposited]) error {
				if full {
					return errFull
				}
				return nil
			}).With(projection.OnFailure(projection.Stop), attempts(2, time.Second, time.Second)).Into(projection.Target[*memo](g))
			defer background(t, projection.Config{Log: log}, r)()
			<-time.After(time.Second)
			g.refuses.Store(1 << 20)
			deposit(t, log, "a", 0, 1)
			<-time.After(time.Minute)
			if s := status(t, r); s.State != projection.StateRetrying || !errors.Is(s.Err, errFull) {
				t.Errorf("status is %+v", s)
			}
			g.refuses.Store(0)
			full = false
			atLeast(t, r, position(1))
			if n := len(parkedOf(t, r)); n != 0 {
				t.Errorf("%d entities are parked", n)
			}
		})
	})
	t.Run("a_verdict_that_cannot_be_stored_is_forgotten", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := newLog(t, 1), &spoilable{target: newTarget()}
			tries := 0
			r := picky(func(projection.Event[*testv1.Deposited]) error {
				if tries++; tries <= 3 {
					return errPoison
				}
				return nil
			}).With(attempts(2, time.Second, time.Second)).Into(projection.Target[*memo](g))
			defer background(t, projection.Config{Log: log}, r)()
			<-time.After(time.Second)
			g.parks.Store(1) // the target fails when the runner parks the entity
			deposit(t, log, "a", 0, 1)
			atLeast(t, r, position(1))
			if n := len(parkedOf(t, r)); n != 0 || tries != 4 {
				t.Errorf("%d entities are parked after %d tries, want none after 4", n, tries)
			}
		})
	})
	for name, bulk := range map[string]bool{"a_rule_that_spoils_its_transaction_parks_its_own_entity": false, "and_so_does_a_rule_of_a_batch": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				log, g := newLog(t, 1), &spoilable{target: newTarget(), spoilt: map[*memo]bool{}}
				one := func(m *memo, e *store.Event) error {
					if g.spoilt[m] {
						return errSpoiltTx // a later statement fails
					}
					if e.Key.ID == "bad" && e.Version == 2 {
						g.spoilt[m] = true
						return nil
					}
					m.rows["sum "+e.Key.ID] += int(e.Version)
					return nil
				}
				rule := projection.On(func(_ context.Context, m *memo, e projection.Event[*testv1.Deposited]) error { return one(m, e.Event) })
				if bulk {
					rule = projection.OnBatch(func(_ context.Context, m *memo, events []projection.AnyEvent) error {
						for _, e := range events {
							if err := one(m, e.Event); err != nil {
								return err
							}
						}
						return nil
					})
				}
				var said lockedBuffer
				r := projection.New("sums", rule).With(attempts(2, time.Second, time.Second)).Into(projection.Target[*memo](g))
				for i := range 10 {
					deposit(t, log, account(i), 0, 3)
				}
				deposit(t, log, "bad", 0, 3)
				for i := range 10 {
					deposit(t, log, account(10+i), 0, 3)
				}
				c := projection.Config{Log: log, Logger: slog.New(slog.NewTextHandler(&said, nil))}
				defer background(t, c, r)()
				atLeast(t, r, position(63))
				for i := range 20 {
					wantRow(t, g.target, "sum "+account(i), sum(3))
				}
				if list := parkedOf(t, r); len(list) != 1 || list[0].Key.ID != "bad" || list[0].Version != 2 || list[0].Attempts != 2 {
					t.Errorf("parked are %+v, want bad alone from 2 after 2 attempts", list)
				}
				for _, want := range []string{"position=32", "entity=account/bad", "type=perdure.test.v1.Deposited", "spoilt"} {
					if !strings.Contains(said.String(), want) {
						t.Errorf("no log line has %q: %s", want, said.String())
					}
				}
			})
		})
	}
	t.Run("rules_that_end_their_goroutine_end_no_runner", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := newLog(t, 1), newTarget()
			exits := 2
			exit := func(context.Context, *memo) error {
				if exits--; exits >= 0 {
					runtime.Goexit()
				}
				return nil
			}
			r := projection.New("p", projection.On(func(context.Context, *memo, projection.Event[*testv1.Deposited]) error { return nil }),
				projection.Prepare(exit), projection.Clear(exit)).Into(g)
			defer background(t, projection.Config{Log: log}, r)()
			deposit(t, log, "a", 0, 1)
			atLeast(t, r, position(1))
			exits = 1
			if err := r.Reset(t.Context()); err == nil || !strings.Contains(err.Error(), "ended its goroutine") {
				t.Errorf("a reset whose Clear ends its goroutine says %v", err)
			}
			atLeast(t, r, position(1))
			exits = 1
			if err := r.Remove(t.Context()); err == nil || !strings.Contains(err.Error(), "ended its goroutine") {
				t.Errorf("a removal whose Clear ends its goroutine says %v", err)
			}
			atLeast(t, r, position(1))
		})
	})
}

// lockedBuffer is a buffer for many goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
