package linearize_test

import (
	"context"
	"errors"
	"flag"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/perduretest"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

var overloadFlag = flag.Duration("overload", 2*time.Second, "how long the engine is overloaded")

// The load: a store whose commit takes serviceTime, and an engine that admits loadCalls
// calls at a time.
const (
	serviceTime     = 5 * time.Millisecond
	loadCalls       = 64
	loadEntityCalls = 16
	loadEntities    = 50
	overloadFactor  = 10
)

// The requirements. The bounds are wide, because the machine that runs the test has other
// work. They exclude growth with the load.
const (
	heapMoreMax   = 64 << 20
	refusalMax    = 250 * time.Millisecond // 99 of 100 refusals come within this time, plus
	refusalTurns  = 10                     // this many turns of a bystander
	recoverMax    = time.Second            // time until the rate is measured again
	recoveredPart = 3                      // the rate afterwards is at least a third of the rate before,
	servedPart    = 10                     // and under overload at least a tenth: the callers take processor time
)

// A load is a set of callers that send deposits to an engine, and the answers that they
// got.
type load struct {
	engine *machine
	acked  []map[int64]store.Version // by caller
	doubt  []map[int64]bool
	sent   []int64
	wait   [][]time.Duration // durations of refused calls, by caller
	stop   atomic.Bool
	done   atomic.Int64
	wrong  atomic.Pointer[error]
}

func newLoad(m *machine, callers int) *load {
	return &load{
		engine: m, acked: make([]map[int64]store.Version, callers), doubt: make([]map[int64]bool, callers),
		sent: make([]int64, callers), wait: make([][]time.Duration, callers),
	}
}

// run makes the callers first to last send for the given duration, and returns the number
// of their commands done per second. Each caller sends one command per period; if period is
// zero, it sends the next one as soon as the one before is answered.
func (l *load) run(ctx context.Context, first, last int, duration, period time.Duration) (rate float64) {
	l.stop.Store(false)
	l.done.Store(0)
	var wg sync.WaitGroup
	began := time.Now()
	for n := first; n < last; n++ {
		wg.Go(func() { l.caller(ctx, n, period) })
	}
	select {
	case <-time.After(duration):
	case <-ctx.Done():
	}
	l.stop.Store(true)
	wg.Wait()
	return float64(l.done.Load()) / time.Since(began).Seconds()
}

func (l *load) caller(ctx context.Context, n int, period time.Duration) {
	if l.acked[n] == nil {
		l.acked[n], l.doubt[n] = make(map[int64]store.Version), make(map[int64]bool)
	}
	var tick <-chan time.Time
	if period > 0 {
		t := time.NewTicker(period)
		defer t.Stop()
		tick = t.C
	}
	for !l.stop.Load() && ctx.Err() == nil {
		if tick != nil {
			<-tick
		}
		l.sent[n]++
		number := int64(n+1)*numbersMax + l.sent[n]
		began := time.Now()
		r, err := l.engine.ref(3*(int(number)%loadEntities)).Do(ctx, &testv1.Deposit{Amount: number, Parts: 1})
		switch {
		case err == nil:
			l.acked[n][number] = r.Version
			l.done.Add(1)
		case errors.Is(err, perdure.ErrOverloaded) && errors.Is(err, perdure.ResourceExhausted):
			l.wait[n] = append(l.wait[n], time.Since(began))
		case errors.Is(err, perdure.ErrOutcomeUnknown):
			l.doubt[n][number] = true
		default:
			l.wrong.Store(&err)
		}
	}
}

// check compares the log with the answers: each acknowledged command is stored once, at its
// version, and every other stored command is one with an unknown outcome.
func (l *load) check(t *testing.T, log store.Log) (acked int) {
	t.Helper()
	held := make(map[int64]store.Version)
	for e := range loadEntities {
		numbers, err := readNumbers(t.Context(), log, entityKey(3*e))
		if err != nil {
			t.Fatal(err)
		}
		for i, n := range numbers {
			if v, twice := held[n]; twice {
				t.Errorf("command %d is at version %d and at version %d", n, v, i+1)
			}
			held[n] = store.Version(i + 1)
		}
	}
	for n := range l.acked {
		acked += len(l.acked[n])
		for number, version := range l.acked[n] {
			if held[number] != version {
				t.Errorf("command %d was acknowledged at version %d and is at version %d", number, version, held[number])
			}
			delete(held, number)
		}
		for number := range l.doubt[n] {
			delete(held, number)
		}
	}
	for number, version := range held {
		t.Errorf("command %d is at version %d, and was refused", number, version)
	}
	if err := l.wrong.Load(); err != nil {
		t.Errorf("a call has failed with %v", *err)
	}
	return acked
}

// TestOverloadIsRefusedAtOnceAndPasses offers ten times the load that the store can serve.
func TestOverloadIsRefusedAtOnceAndPasses(t *testing.T) { //nolint:paralleltest // it compares rates
	log := memory.New()
	faults := perduretest.NewFaults(log)
	faults.Hook(func(c *perduretest.Call) perduretest.Fault {
		if c.Method != perduretest.MethodCommit {
			return perduretest.Pass()
		}
		served := make(chan struct{})
		time.AfterFunc(serviceTime, func() { close(served) })
		return perduretest.Delay(served)
	})
	kind := ledgers()
	engine, err := perdure.Open(t.Context(), perdure.Config{
		Store: faults.Log(), Kinds: []perdure.AnyKind{kind}, CallsMax: loadCalls, EntityCallsMax: loadEntityCalls,
	})
	if err != nil {
		t.Fatal(err)
	}
	const callers = overloadFactor * loadCalls
	l := newLoad(&machine{engine: engine, kinds: map[string]*perdure.Kind[*testv1.Account]{ledgerKind: kind}}, callers)

	const window = 500 * time.Millisecond
	before := l.run(t.Context(), 0, loadCalls/2, window, 0)
	if before == 0 {
		t.Fatal("nothing is done without overload")
	}
	heap, goroutines := heapBytes(), runtime.NumGoroutine()
	var heapMost uint64
	var goroutinesMost int
	watched, stop := make(chan struct{}), make(chan struct{})
	var turns []time.Duration // scheduling delays of this goroutine
	go func() {
		defer close(watched)
		tick := time.NewTicker(window / 10)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				began := time.Now()
				runtime.Gosched()
				turns = append(turns, time.Since(began))
				heapMost, goroutinesMost = max(heapMost, heapBytes()), max(goroutinesMost, runtime.NumGoroutine())
			case <-stop:
				return
			}
		}
	}()
	period := time.Duration(float64(callers) / (overloadFactor * before) * float64(time.Second))
	during := l.run(t.Context(), 0, callers, *overloadFlag, period)
	close(stop)
	<-watched

	var refusals []time.Duration
	for _, w := range l.wait {
		refusals = append(refusals, w...)
	}
	slices.Sort(refusals)
	if len(refusals) == 0 {
		t.Fatal("nothing was refused: there was no overload")
	}
	p99 := refusals[len(refusals)*99/100]
	turn := slices.Max(append(turns, 0)) // longest time that the machine made this goroutine wait
	var after float64
	for range 3 { // measure up to three times, because the machine may have other work
		if after = max(after, l.run(t.Context(), 0, loadCalls/2, recoverMax/3, 0)); after >= before/recoveredPart {
			break
		}
	}
	if err := engine.Close(t.Context()); err != nil {
		t.Errorf("close the engine: %v", err)
	}
	acked := l.check(t, log)
	t.Logf("done a second: %.0f before, %.0f during, %.0f after; %d acknowledged, %d refused, 99%% of them within %v, a turn takes %v; heap %d KiB more, %d goroutines more",
		before, during, after, acked, len(refusals), p99, turn, (int64(heapMost)-int64(heap))>>10, goroutinesMost-goroutines)
	switch {
	case heapMost > heap+heapMoreMax:
		t.Errorf("the heap has grown from %d KiB to %d KiB", heap>>10, heapMost>>10)
	case goroutinesMost > goroutines+callers+loadCalls:
		t.Errorf("there were %d goroutines, before %d, with %d callers", goroutinesMost, goroutines, callers)
	case p99 > refusalMax+refusalTurns*turn:
		t.Errorf("1 of 100 refusals has taken longer than %v, where a turn takes %v", p99, turn)
	case during < before/servedPart:
		t.Errorf("under overload %.0f commands are done a second, before %.0f", during, before)
	case after < before/recoveredPart:
		t.Errorf("after the overload %.0f commands are done a second, before %.0f", after, before)
	}
	if err := log.Close(); err != nil {
		t.Error(err)
	}
}

func heapBytes() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
