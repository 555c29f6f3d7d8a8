package projection_test

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// An exitingClock ends the goroutine that sets a timer of one duration, once.
type exitingClock struct {
	d   time.Duration
	hit atomic.Bool
}

func (*exitingClock) Now() time.Time { return time.Now() }

func (c *exitingClock) AfterFunc(d time.Duration, f func()) func() bool {
	if d == c.d && c.hit.CompareAndSwap(false, true) {
		runtime.Goexit()
	}
	return time.AfterFunc(d, f).Stop
}

// An absentLog has no heads for a while.
type absentLog struct {
	*memory.Log
	fails atomic.Int32
}

func (l *absentLog) Heads(ctx context.Context) ([]store.Position, error) {
	if l.fails.Add(-1) >= 0 {
		return nil, errors.New("the log is away")
	}
	return l.Log.Heads(ctx)
}

// Each goroutine of a runner waits by the clock of the user. If the clock ends a goroutine,
// another one takes its place.
func TestClockThatEndsAGoroutine(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		d    time.Duration
		away int32 // the number of reads of the heads that fail
	}{
		"leaves the checkpoints moving":             {d: 5 * time.Second},
		"leaves a version that switches":            {d: 200 * time.Millisecond},
		"leaves a runner that begins":               {d: 100 * time.Millisecond, away: 2},
		"leaves a reader that tries the log again":  {d: 50 * time.Millisecond, away: 4},
		"leaves a reader that looks for new events": {d: 2 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				log, g, clock := &absentLog{Log: memory.New()}, newTarget(), &exitingClock{d: c.d}
				deposit(t, log.Log, "a", 0, 3)
				v1 := sums().Into(g)
				if err := projection.RunOnce(t.Context(), projection.Config{Log: log}, v1); err != nil {
					t.Fatal(err)
				}
				log.fails.Store(c.away)
				v2 := sums().With(projection.Version(2), projection.SwitchWhenLive(), attempts(3, 100*time.Millisecond, time.Second)).Into(g)
				defer background(t, projection.Config{Log: log, Clock: clock}, v2)()
				<-time.After(10 * time.Second)
				log.fails.Store(c.away / 2)
				<-time.After(10 * time.Second)
				deposit(t, log.Log, "a", 3, 3)
				atLeast(t, v2, position(6))
				<-time.After(time.Minute)
				if !clock.hit.Load() {
					t.Fatalf("no goroutine has waited for %v", c.d)
				}
				if v := serving(t, g, "sums"); v != 2 {
					t.Errorf("version %d serves, want 2", v)
				}
				for _, m := range checkpoints(t, log.Log) {
					if m.Name == "projection/sums/v2" && m.Position != position(6) {
						t.Errorf("the checkpoint is at %v, want %v", m.Position, position(6))
					}
				}
			})
		})
	}
}
