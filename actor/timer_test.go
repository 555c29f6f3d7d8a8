package actor_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/actor"
)

// A timed is a message with the time at which it was handled.
type timed struct {
	m  string
	at time.Duration
}

// clock spawns an actor that records each message with its time.
func clock(t *testing.T, s *actor.System, begin time.Time, log *[]timed, on func(c *actor.Context[string], m string)) actor.Ref[string] {
	t.Helper()
	return spawn(t, s, actor.Func[string](func(c *actor.Context[string], m string) {
		*log = append(*log, timed{m, time.Since(begin).Round(time.Millisecond)})
		if on != nil {
			on(c, m)
		}
	}))
}

// sleep lets virtual time pass.
func sleep(d time.Duration) { time.Sleep(d); synctest.Wait() } //nolint:forbidigo // in a bubble

func TestTimersTellAtTheirTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log []timed
		r := clock(t, newSystem(t, actor.Config{}), time.Now(), &log, nil)
		r.TellAfter(3*time.Second, "once")
		r.TellAfter(time.Second, "never").Stop()
		every := r.TellEvery(2*time.Second, "again")
		sleep(5 * time.Second)
		every.Stop()
		sleep(time.Minute)
		want := []timed{{"again", 2 * time.Second}, {"once", 3 * time.Second}, {"again", 4 * time.Second}}
		if !slices.Equal(log, want) {
			t.Errorf("got %v, want %v", log, want)
		}
	})
}

func TestTimersOfNobodyDoNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var none actor.Ref[string]
		var timer *actor.Timer
		for _, timer := range []*actor.Timer{timer, none.TellAfter(1, "a"), none.TellEvery(1, "b")} {
			timer.Stop()
		}
		s := newSystem(t, actor.Config{})
		var log []timed
		r := clock(t, s, time.Now(), &log, nil)
		r.TellEvery(time.Second, "late")
		r.TellAfter(time.Second, "late")
		r.Stop()
		sleep(time.Minute)
		if len(log) != 0 {
			t.Errorf("a stopped actor has handled %v", log)
		}
	})
}

func TestPeriodsAreNotMadeUpFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log []timed
		s := newSystem(t, actor.Config{MailboxMax: 1})
		r := clock(t, s, time.Now(), &log, func(*actor.Context[string], string) {
			if len(log) == 1 {
				sleep := time.NewTimer(10 * time.Second)
				<-sleep.C // the mailbox is full during this time
			}
		})
		every := r.TellEvery(2*time.Second, "again")
		sleep(15 * time.Second)
		every.Stop()
		want := []timed{{"again", 2 * time.Second}, {"again", 12 * time.Second}, {"again", 12 * time.Second}, {"again", 14 * time.Second}}
		if !slices.Equal(log[:2], want[:2]) || log[len(log)-1] != want[3] || len(log) > 4 {
			t.Errorf("got %v, want about %v", log, want)
		}
	})
}

func TestReceiveTimeoutComesWhenNothingElseDoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log []timed
		r := clock(t, newSystem(t, actor.Config{}), time.Now(), &log, func(c *actor.Context[string], m string) {
			switch m {
			case "begin":
				c.ReceiveTimeout(10*time.Second, "quiet")
			case "end":
				c.ReceiveTimeout(0, "")
			}
		})
		tell(t, r, "begin")
		sleep(7 * time.Second)
		tell(t, r, "word")
		sleep(23 * time.Second) // the timeout comes 10 s after the message, and 10 s later
		tell(t, r, "end")
		sleep(time.Minute)
		want := []timed{{"begin", 0}, {"word", 7 * time.Second}, {"quiet", 17 * time.Second}, {"quiet", 27 * time.Second}, {"end", 30 * time.Second}}
		if !slices.Equal(log, want) {
			t.Errorf("got %v, want %v", log, want)
		}
	})
}

func TestReceiveTimeoutEndsWithItsActor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log []timed
		r := clock(t, newSystem(t, actor.Config{}), time.Now(), &log, func(c *actor.Context[string], m string) {
			c.ReceiveTimeout(10*time.Second, "quiet")
			if m == "quiet" {
				c.Stop() // the actor stops because it was idle
			}
		})
		tell(t, r, "begin")
		sleep(time.Minute)
		stopped(t, r)
		if len(log) != 2 {
			t.Errorf("got %v, want the beginning and one timeout", log)
		}
	})
}

// A dozing behavior sleeps in Signal.
type dozing struct {
	*probe
	begun bool
}

func (b *dozing) Receive(c *actor.Context[int], m int) {
	if !b.begun {
		b.begun = true
		c.ReceiveTimeout(time.Second, -1)
	}
	b.probe.Receive(c, m)
}

func (*dozing) Signal(*actor.Context[int]) { sleepOnly(3 * time.Second) }

// sleepOnly lets virtual time pass, inside of an actor.
func sleepOnly(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // in a bubble

func TestReceiveTimeoutWaitsWhileMessagesWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t, actor.Config{})
		b := &dozing{probe: newProbe()}
		r := spawn(t, s, b)
		tell(t, r, 1)
		synctest.Wait()
		r.Signal()
		synctest.Wait()
		tell(t, r, 2) // the message waits for longer than the timeout
		sleep(3500 * time.Millisecond)
		r.StopNow()
		synctest.Wait()
		close(b.got)
		var got []int
		for m := range b.got {
			got = append(got, m)
		}
		if want := []int{1, 2}; !slices.Equal(got, want) {
			t.Errorf("handled %v, want %v and no timeout", got, want)
		}
	})
}
