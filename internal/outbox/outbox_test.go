package outbox_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/perdure/perdure/internal/outbox"
	"github.com/perdure/perdure/store"
)

const (
	seeds = 600
	steps = 800
)

func TestMessagesAreDeliveredInOrderAndNoneIsStuck(t *testing.T) {
	t.Parallel()
	most := uint64(seeds)
	if testing.Short() {
		most /= 10
	}
	for seed := range most {
		if err := newWorld(seed, "").run(steps); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func TestBrokenQueuesAreFound(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: a queue is of one goroutine, so nothing can race")
	}
	for _, fault := range []string{
		outbox.ForgetGone, outbox.ForgetBehind, outbox.ForgetLate, outbox.ForgetSettled,
		dispatchBeforeCommit, doneBeforeHandled, ignoreLanes, scanBehind, retryAtOnce, ignoreDoubt,
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(seeds) {
				if err := newWorld(seed, fault).run(steps); err != nil {
					t.Logf("found with seed %d: %v", seed, err)
					return
				}
			}
			t.Errorf("not found with %d seeds", seeds)
		})
	}
}

// A calm is a shell whose pauses are exact.
type calm struct{}

func (calm) Policy(m *store.Message) outbox.Policy {
	if m.Type == "busy" {
		return outbox.Policy{AttemptsMax: 1, BackoffMin: 10 * time.Millisecond, BackoffMax: time.Minute}
	}
	return outbox.Policy{AttemptsMax: 10, BackoffMin: time.Second, BackoffMax: 10 * time.Second, AgeMax: time.Hour}
}

func (calm) Jitter(d time.Duration) time.Duration { return d }

// scanned returns a queue that has read its store, which is empty.
func scanned(limits outbox.Limits, now time.Time) *outbox.Queue {
	q := outbox.New(calm{}, limits)
	q.ScanBegins()
	q.ScanEnded(time.Time{}, false, now)
	return q
}

// from returns messages to one handler, each from another source.
func from(name string, first uint64, count int, now time.Time) (list []*store.Message) {
	for n := range count {
		list = append(list, &store.Message{
			Sequence: first + uint64(n), Source: store.Key{Kind: name, ID: fmt.Sprint(n)}, Type: name, Time: now,
		})
	}
	return list
}

func TestAQueueThatIsFullDoesNotAskToBeWoken(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	q := scanned(outbox.Limits{Window: 4, LaneMax: 4, InFlight: 4, Late: 4}, now)
	timer := &store.Message{Sequence: 9, Due: now.Add(time.Second)}
	q.Committed(append(from("slow", 1, 4, now), timer), now)
	var rows []*outbox.Row
	for r := q.Next(now); r != nil; r = q.Next(now) {
		rows = append(rows, r)
	}
	now = now.Add(time.Minute)
	if at, ok := q.Wake(); ok && !at.After(now) || q.WantsScan(now) {
		t.Errorf("with 4 of 4 messages under way and a timer due: wake %v, %t, want none", at, ok)
	}
	for _, r := range rows {
		q.Finished(r, outbox.Gone, nil, now)
	}
	if !q.WantsScan(now) {
		t.Error("with room again, the queue does not want the timer that is due")
	}
	q.ScanBegins()
	if at, ok := q.Wake(); ok {
		t.Errorf("during a scan: wake %v, want none", at)
	}
	q.ScanEnded(time.Time{}, true, now)
	at, ok := q.Wake()
	if !ok || !at.After(now) || q.WantsScan(now) || !q.WantsScan(at) {
		t.Errorf("after a scan that has failed: wake %v, %t, want a pause and another scan", at, ok)
	}
}

func TestARescueTakesWhatIsOldAndNothingElse(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	q := scanned(outbox.Limits{Window: 4, LaneMax: 1, InFlight: 4, Late: 4, RescueEvery: 30 * time.Second, RescueAfter: time.Minute}, now)
	if q.WantsScan(now) {
		t.Error("the queue wants a scan right after one")
	}
	own := from("own", 1, 1, now)[0]
	left := *own // does not fit into the lane any more, so it is only in the store
	left.Sequence = 3
	q.Committed([]*store.Message{own, &left}, now)
	at, ok := q.Wake()
	if !ok || !at.Equal(now.Add(30*time.Second)) || !q.WantsScan(at) {
		t.Fatalf("after half a minute: wake %v, %t, want a scan", at, ok)
	}
	now = now.Add(2 * time.Minute)
	if !q.WantsScan(now) {
		t.Fatal("no scan is wanted after two minutes")
	}
	old, young := from("dead", 2, 1, now.Add(-61*time.Second))[0], from("alive", 4, 1, now.Add(-59*time.Second))[0]
	timer := &store.Message{Sequence: 5, Due: now.Add(-time.Second), Time: now.Add(-time.Hour), Type: "timer"}
	q.ScanBegins()
	for _, m := range []*store.Message{own, old, &left, young, timer} {
		if !q.Scanned(m) {
			t.Fatalf("the scan ends at %d", m.Sequence)
		}
	}
	q.ScanEnded(time.Time{}, false, now)
	var got []uint64
	rows := map[uint64]*outbox.Row{}
	for r := q.Next(now); r != nil; r = q.Next(now) {
		got = append(got, r.Message.Sequence)
		rows[r.Message.Sequence] = r
	}
	if want := []uint64{1, 2}; !slices.Equal(got, want) {
		t.Errorf("delivered after a rescue: got %d, want %d", got, want)
	}
	q.Committed([]*store.Message{young}, now) // it was our own, and was not told of before
	if r := q.Next(now); r == nil || r.Message != young {
		t.Errorf("after the commit of a message that the rescue has left out: got %+v", r)
	}
	q.Finished(rows[1], outbox.Gone, nil, now)
	if !q.WantsScan(now) {
		t.Error("the rescue has made the queue forget that the store holds more of a lane")
	}
}

func TestABrokenHandlerDoesNotHoldUpTheOthers(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	q := scanned(outbox.Limits{Window: 4, LaneMax: 4, InFlight: 2, Late: 4}, now)
	for n := range 2 {
		q.Committed(from("broken", uint64(1+4*n), 4, now), now)
		for r := q.Next(now); r != nil; r = q.Next(now) {
			q.Finished(r, outbox.Retry, errors.New("away"), now)
		}
	}
	q.Committed(from("fine", 100, 1, now), now)
	r := q.Next(now)
	if r == nil || r.Message.Type != "fine" {
		rows, flight := q.Load()
		t.Fatalf("got %+v to deliver, want the message to the other handler; %d rows, %d under way", r, rows, flight)
	}
	q.Finished(r, outbox.Gone, nil, now)
	for n := range 100 { // but there is a bound
		q.Committed(from("broken", uint64(1000+4*n), 4, now), now)
		for r := q.Next(now); r != nil; r = q.Next(now) {
			q.Finished(r, outbox.Retry, errors.New("away"), now)
		}
	}
	if rows, _ := q.Load(); rows > 16 {
		t.Errorf("%d messages are in memory, want at most 4 windows of 4", rows)
	}
}

func TestADeliveryThatCannotBeTriedIsNoAttempt(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	q := scanned(outbox.Limits{Window: 4, LaneMax: 4, InFlight: 4, Late: 4}, now)
	q.Committed(from("busy", 1, 1, now), now)
	for n, pause := range []int{10, 20, 40, 80, 160, 320, 640, 1000, 1000} {
		q.Finished(q.Next(now), outbox.Later, errors.New("overloaded"), now)
		at, ok := q.Wake()
		if got := int(at.Sub(now).Milliseconds()); !ok || got != pause || q.Unsaved() {
			t.Fatalf("after %d times: the pause is %d ms, unsaved %t, want %d ms and nothing to store", n+1, got, q.Unsaved(), pause)
		}
		now = at
	}
}

func TestAScanEndsWhenTooMuchIsSettledDuringIt(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	const window = 8
	q := outbox.New(calm{}, outbox.Limits{Window: window, LaneMax: 4, InFlight: 4, Late: 4})
	q.ScanBegins()
	read := 0
	for _, m := range from("quick", 1, 10*window, now) {
		read++
		if !q.Scanned(m) {
			break
		}
		q.Finished(q.Next(now), outbox.Gone, nil, now)
	}
	if read > 2*window {
		t.Errorf("%d rows are read and settled in one scan, want at most twice the window of %d", read, window)
	}
	q.ScanEnded(time.Time{}, false, now)
	if !q.WantsScan(now) {
		t.Error("the queue does not want to read what it has left out")
	}
}

func TestAClosedQueueDeliversOnlyEffects(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	q := scanned(outbox.Limits{Window: 8, LaneMax: 4, InFlight: 2, Late: 4}, now)
	source := store.Key{Kind: "source", ID: "1"}
	q.Committed(from("handler", 1, 2, now), now)
	begun := q.Next(now)
	for n := range 2 {
		if !q.Volatile(&store.Message{Source: source}, n) {
			t.Fatalf("effect %d is refused", n)
		}
	}
	q.Committed([]*store.Message{{Sequence: 9, Due: now.Add(time.Second)}}, now)
	q.Close()
	for n := range 2 {
		r := q.Next(now)
		if q.Drained() || r == nil || r.Value != n {
			t.Fatalf("got %+v to deliver, drained %t, want effect %d", r, q.Drained(), n)
		}
		q.Finished(r, outbox.Done, nil, now)
	}
	q.Finished(begun, outbox.Gone, nil, now)
	if r := q.Next(now); r != nil || !q.Drained() {
		t.Errorf("got %+v to deliver, drained %t, want nothing more", r, q.Drained())
	}
	if at, ok := q.Wake(); ok || q.WantsScan(now.Add(time.Hour)) {
		t.Errorf("a closed queue wants to be woken at %v, %t, or scan", at, ok)
	}
}

func TestSettlementsFitInABatch(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	q := scanned(outbox.Limits{Window: 100, LaneMax: 4, InFlight: 100, Late: 4}, now)
	const count = 10
	list := from("large", 1, count, now)
	for _, m := range list {
		m.Payload = make([]byte, store.PayloadBytesMax)
	}
	q.Committed(list, now)
	for r := q.Next(now); r != nil; r = q.Next(now) {
		q.Finished(r, outbox.Retry, errors.New("away"), now)
	}
	stored := 0
	for q.Unsaved() {
		b := store.Batch{Settle: q.Settlements(count)}
		bytes := 0
		for _, s := range b.Settle {
			bytes += len(s.Message.Payload)
		}
		if len(b.Settle) == 0 || bytes > store.BatchBytesMax {
			t.Fatalf("%d settlements of %d bytes, want some that fit in %d", len(b.Settle), bytes, store.BatchBytesMax)
		}
		stored += len(b.Settle)
	}
	if stored != count {
		t.Errorf("%d settlements in all, want %d", stored, count)
	}
}

func TestAMessageIsParkedWhenItIsTooOld(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	q := scanned(outbox.Limits{Window: 4, LaneMax: 4, InFlight: 4, Late: 4}, now)
	q.Committed(from("away", 1, 1, now), now)
	text := strings.Repeat("ä", 5000) + "\xff"
	for n, pause := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 10 * time.Second} {
		q.Finished(q.Next(now), outbox.Retry, errors.New(text), now)
		m := q.Settlements(1)[0].Message
		if m.Parked || int(m.Attempts) != n+1 || len(m.LastError) > 1024 || !utf8.ValidString(m.LastError) {
			t.Fatalf("after attempt %d: got %d attempts, parked %t, an error of %d bytes", n+1, m.Attempts, m.Parked, len(m.LastError))
		}
		at, ok := q.Wake()
		if got := at.Sub(now); !ok || got != pause {
			t.Fatalf("after attempt %d: the pause is %v, want %v", n+1, got, pause)
		}
		now = at
	}
	now = now.Add(time.Hour)
	q.Finished(q.Next(now), outbox.Retry, nil, now)
	if m := q.Settlements(1)[0].Message; !m.Parked || m.Attempts != 6 || m.LastError == "" {
		t.Errorf("after an hour: got %+v, want it parked", m)
	}
}
