package projection_test

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/memorytarget"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

var poisonEvents = flag.Int("poison.events", 1_000_000, "how long the log with one bad event is")

const (
	poisonEntities = 500
	poisonBatch    = 100     // events of one entity in a row
	poisonHeapMax  = 8 << 20 // bound for a runner, without the log and the model
	poisonLooks    = 10      // measurements of the heap
	poisonPatience = time.Minute
)

// A poisoned log has one event that no rule can handle.
type poisoned struct {
	log      *memory.Log
	events   int
	want     map[string]int64 // the sum of each account
	bad      store.Key
	at       store.Version
	position store.Position
	before   int64 // the sum of the bad account before that event
}

// newPoisoned commits that number of deposits, in groups. Each tenth batch belongs to the account
// of the bad event, so that much of the log comes after that event.
func newPoisoned(t *testing.T, events int) *poisoned {
	t.Helper()
	log := memory.New()
	t.Cleanup(func() { _ = log.Close() }) // it is empty
	p := &poisoned{log: log, want: make(map[string]int64), bad: store.Key{Kind: "account", ID: account(0)}}
	payload, err := proto.Marshal(&testv1.Deposited{Amount: 3})
	if err != nil {
		t.Fatal(err)
	}
	versions := make(map[string]store.Version)
	var group []*store.Batch
	for n := 0; p.events < events; n++ {
		id := account(n % poisonEntities)
		if n%10 == 0 {
			id = p.bad.ID
		}
		b := &store.Batch{Key: store.Key{Kind: "account", ID: id}, Expected: versions[id], Events: make([]store.Event, poisonBatch)}
		for i := range b.Events {
			b.Events[i] = store.Event{ID: store.ID{1}, Type: "perdure.test.v1.Deposited", Payload: payload}
		}
		if id == p.bad.ID && p.at == 0 && p.events >= events/3 {
			p.at, p.position, p.before = b.Expected+poisonBatch/2, position(p.events+poisonBatch/2), p.want[id]+3*(poisonBatch/2-1)
		}
		group = append(group, b)
		p.events += poisonBatch
		p.want[id] += 3 * poisonBatch
		versions[id] += poisonBatch
		if len(group) < poisonBatch && p.events < events {
			continue
		}
		results, err := log.Commit(t.Context(), group)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range results {
			if r.Err != nil {
				t.Fatalf("batch of %v: %v", group[i].Key, r.Err)
			}
		}
		group = nil
	}
	return p
}

// A tally is a read model with the sum of each account.
type tally struct {
	sums memorytarget.Table[string, int64]
}

// A poisonTwin is a mutant: a way in which a runner can treat a bad event wrongly.
type poisonTwin struct {
	options []projection.Option
	spreads bool // other entities fail after the bad one
	keeps   bool // keeps every event that was handled
}

// check runs a projection over the log and returns the errors in its result.
func (p *poisoned) check(t *testing.T, twin poisonTwin) (faults []string) {
	t.Helper()
	wrong := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	target, err := memorytarget.New(tally{})
	if err != nil {
		t.Fatal(err)
	}
	var healed, met atomic.Bool
	var handled int
	var heap, heapMost uint64
	var kept []projection.Event[*testv1.Deposited]
	retry := attempts(3, time.Microsecond, time.Microsecond)
	r := projection.New("tally", projection.On(func(_ context.Context, m *tally, e projection.Event[*testv1.Deposited]) error {
		if handled++; handled%(p.events/poisonLooks) == 0 {
			heapMost = max(heapMost, liveBytes())
		}
		if e.Key == p.bad && e.Version == p.at && !healed.Load() {
			met.Store(true)
			return errPoison
		}
		if twin.spreads && met.Load() {
			return errPoison
		}
		if twin.keeps {
			kept = append(kept, e)
		}
		sum, _ := m.sums.Get(e.Key.ID)
		m.sums.Put(e.Key.ID, sum+e.Message.GetAmount())
		return nil
	})).With(retry).With(twin.options...).Into(target)
	heap = liveBytes()

	ctx, cancel := context.WithTimeout(t.Context(), poisonPatience)
	defer cancel()
	defer background(t, projection.Config{Log: p.log}, r)()
	head := position(p.events)
	if err := r.AtLeast(ctx, head); err != nil {
		wrong("it does not come to the head: %v", err)
	}
	s := status(t, r)
	if s.State != projection.StateLive || s.Lag != 0 || s.Parked != 1 || s.Dead != 0 {
		wrong("it is %s with lag %d, %d parked and %d dead; want it live at the head with 1 parked", s.State, s.Lag, s.Parked, s.Dead)
	}
	if list := parkedOf(t, r); len(list) != 1 || list[0].Key != p.bad || list[0].Version != p.at || list[0].Position != p.position {
		wrong("%d entities are parked; want %v alone, at version %d, position %v", len(list), p.bad, p.at, p.position)
	}
	wantSums := func(ofBad int64) {
		if err := target.View(t.Context(), func(m *tally) error {
			for id, want := range p.want {
				if id == p.bad.ID {
					want = ofBad
				}
				if got, _ := m.sums.Get(id); got != want {
					wrong("the sum of %s is %d, want %d", id, got, want)
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	wantSums(p.before)
	t.Logf("%d events, heap %d KiB before, at most %d KiB on the way", p.events, heap>>10, heapMost>>10)
	if heapMost > heap+poisonHeapMax {
		wrong("the heap has grown from %d KiB to %d KiB", heap>>10, heapMost>>10)
	}
	runtime.KeepAlive(kept)
	if len(faults) > 0 {
		return faults
	}
	healed.Store(true)
	if err := r.Retry(ctx, p.bad); err != nil {
		wrong("retry %v: %v", p.bad, err)
	}
	wantSums(p.want[p.bad.ID])
	if heapMost > heap+poisonHeapMax {
		wrong("a retry has the heap grow from %d KiB to %d KiB", heap>>10, heapMost>>10)
	}
	return faults
}

// liveBytes is the number of bytes that the garbage collector cannot free.
func liveBytes() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestParkingOfOneBadEventInAMillion(t *testing.T) { //nolint:paralleltest // it measures the heap
	if testing.Short() {
		t.Skip("it handles a million events")
	}
	for _, fault := range newPoisoned(t, *poisonEvents).check(t, poisonTwin{}) {
		t.Error(fault)
	}
}

func TestRunnerThatMakesMoreOfOneBadEventIsCaught(t *testing.T) { //nolint:paralleltest // it measures the heap
	if testing.Short() {
		t.Skip("it handles many events")
	}
	p := newPoisoned(t, 4*poisonEntities*poisonBatch)
	for name, c := range map[string]struct {
		twin poisonTwin
		want string
	}{
		"stops at the event":           {poisonTwin{options: []projection.Option{projection.OnFailure(projection.Stop)}}, "does not come to the head"},
		"leaves the event out":         {poisonTwin{options: []projection.Option{projection.OnFailure(projection.Skip)}}, "0 entities are parked"},
		"parks all entities behind it": {poisonTwin{spreads: true}, "entities are parked; want account/a0 alone"},
		"keeps what it has handled":    {poisonTwin{keeps: true}, "the heap has grown"},
	} {
		if faults := strings.Join(p.check(t, c.twin), "; "); !strings.Contains(faults, c.want) {
			t.Errorf("a runner that %s: faults are %q, want one with %q", name, faults, c.want)
		}
	}
	if faults := p.check(t, poisonTwin{}); len(faults) != 0 {
		t.Errorf("the runner itself: %q", faults)
	}
}
