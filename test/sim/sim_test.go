package sim_test

import (
	"flag"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	oneSeed = flag.Int64("seed", -1, "run only this seed")
	seeds   = flag.Int("seeds", seedsDefault, "how many seeds to run")
	whole   = flag.Bool("whole", false, "print the whole trace of a run, and not its end")
)

// twinSeedsMax bounds the seeds with which a mutant must be found.
const twinSeedsMax = 200

func TestSimulationKeepsEveryPromise(t *testing.T) {
	t.Parallel()
	if *oneSeed >= 0 {
		w := newWorld(uint64(*oneSeed), mutant{})
		fault := w.run()
		t.Logf("seed %d: %d steps, %d calls, hash %x\n%s", w.seed, w.steps, len(w.ops), w.hash, w.tail())
		if fault != "" {
			t.Errorf("seed %d: %s", w.seed, fault)
		}
		return
	}
	began := time.Now()
	var next, steps, calls atomic.Uint64
	var mu sync.Mutex
	seen := make(map[string]int) // counts of the results of the projection's attempts
	var worst *world             // the broken world with the lowest seed
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for seed := next.Add(1); seed <= uint64(*seeds); seed = next.Add(1) {
				w := newWorld(seed, mutant{})
				fault := w.run()
				steps.Add(uint64(w.steps))
				calls.Add(uint64(len(w.ops)))
				mu.Lock()
				for what, n := range w.target.seen {
					seen[what] += n
				}
				seen["of several messages"] += w.groups
				seen["of an operator"] += w.freed
				mu.Unlock()
				if fault == "" {
					continue
				}
				next.Store(uint64(*seeds)) // start no further seeds
				mu.Lock()
				if worst == nil || worst.seed > seed {
					worst = w
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if worst != nil {
		t.Fatalf("seed %d: %s\n\n%s\nTo see all of it again: go test ./test/sim -run '^%s$' -seed=%d -whole -v",
			worst.seed, worst.fault, worst.tail(), t.Name(), worst.seed)
	}
	for _, what := range []string{"refused", "moved", "failed", "lost", "stored, and the answer lost", "parked", "unparked", "left out", "stopped", "of several messages", "of an operator"} {
		if seen[what] == 0 && *seeds >= seedsDefault {
			t.Errorf("no run has an attempt that was %s: %v", what, seen)
		}
	}
	took := time.Since(began)
	t.Logf("%d seeds in %v, %.0f a second: %d steps, %d calls, attempts: %v", *seeds, took.Round(time.Millisecond),
		float64(*seeds)/took.Seconds(), steps.Load(), calls.Load(), seen)
}

func TestSimulationIsDeterministic(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: a world is of one goroutine, so nothing can race")
	}
	hashes := make(map[uint64]uint64)
	for seed := range uint64(20) {
		a, b := newWorld(seed, mutant{}), newWorld(seed, mutant{})
		a.run()
		b.run()
		if !slices.Equal(a.trace, b.trace) || a.hash != b.hash || a.steps != b.steps {
			t.Errorf("two runs of seed %d: got %d and %d lines of trace, hashes %x and %x after %d and %d steps, want the same",
				seed, len(a.trace), len(b.trace), a.hash, b.hash, a.steps, b.steps)
		}
		if other, ok := hashes[a.hash]; ok {
			t.Errorf("seeds %d and %d: got the same run", seed, other)
		}
		hashes[a.hash] = seed
	}
}

// A mutant is a world with one typical mistake. The mutants show that the
// checks work: each mutant must be found.
type mutant struct {
	name              string
	shared, exclusive bool // the kind of store that shows the mistake
	committer         bool // only with a store that does not commit synchronously

	settlesEarly             bool // the shell treats a submitted batch as stored
	takesUnknownForNotStored bool
	retriesUnknown           bool // the committer repeats a commit with an unknown outcome
	skipsCheck               bool // reads of a shared store come from memory alone
	answersPastGate          bool // a query does not wait until the state that it saw is durable
	forgetsBusy              bool // an entity is passivated with calls in it
	losesFailures            bool // an entity does not learn of a failed group
	storesBehind             bool // the store accepts a batch behind a refused one
	forgivesPipelines        bool // a pipeline is used again before it is empty
	forgivesOnTheSpot        bool // the same on a store that commits synchronously
	swapsResults             bool // results come back in another order
	readsOldData             bool // a load misses the latest commit

	keepsReceiptsApart    bool // the receipt of a command is stored after its batch
	forgetsKeys           bool // a reload does not restore the keys
	repeatsEarly          bool // a repetition is answered before the first answer is durable
	answersTwice          bool // the store accepts a second receipt for a key
	claimsTwice           bool // the store does not check the holder of a value
	dispatchesEarly       bool // messages are delivered before they are stored
	sendsEarly            bool // effects are performed before their command is stored
	missesUnknownOutcomes bool // the dispatcher does not look for the messages of a commit with an unknown outcome
	settlesUnhandled      bool // a message is completed before its handler has done its work
	settlesUnsaved        bool // a message is forgotten though its settlement is not stored
	requiresNoRow         bool // a target does not require that the message still exists
	cancelsInMemory       bool // the cancellation of a timer is not stored

	publishesEarly   bool // readers get events before they are stored
	publishesRefused bool // readers get events of refused batches
	skipsBehind      bool // a slow reader continues at the head

	parks                   bool // entities whose events fail are parked, in every run
	notesFirst              bool // the position of a segment is stored before its rows
	comparesNoNote          bool // an attempt does not check whether the note has moved
	takesLostForNotStored   bool // a transaction whose answer is lost counts as not stored
	notesNothingOverNothing bool // a position that moves over unwanted events is not stored
	handlesParked           bool // parked entities are not passed over
	parksWithoutVersion     bool // the note of a parked entity is one event behind
	unparksFirst            bool // an entity is unparked before its rows are stored
	feedsGaps               bool // the reader of a segment misses events
	prunesUnread            bool // events are deleted that the projection has not read
}

func TestSimulationFindsMutants(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: a world is of one goroutine, so nothing can race")
	}
	for _, tw := range []mutant{
		{name: "settles early", committer: true, settlesEarly: true},
		{name: "takes unknown for not stored", committer: true, takesUnknownForNotStored: true},
		{name: "retries unknown", committer: true, retriesUnknown: true},
		{name: "skips the check", skipsCheck: true, shared: true},
		{name: "answers past the gate", committer: true, answersPastGate: true, exclusive: true},
		{name: "forgets busy entities", committer: true, forgetsBusy: true},
		{name: "loses failures", committer: true, losesFailures: true},
		{name: "stores behind", committer: true, storesBehind: true, shared: true},
		{name: "forgives pipelines", committer: true, forgivesPipelines: true, shared: true},
		{name: "forgives on the spot", forgivesOnTheSpot: true, shared: true},
		{name: "swaps results", committer: true, swapsResults: true, shared: true},
		{name: "reads old data", readsOldData: true, exclusive: true},
		{name: "keeps receipts apart", keepsReceiptsApart: true},
		{name: "forgets keys", forgetsKeys: true},
		{name: "repeats early", committer: true, repeatsEarly: true},
		{name: "answers twice", answersTwice: true, shared: true},
		{name: "claims twice", claimsTwice: true},
		{name: "dispatches early", committer: true, dispatchesEarly: true},
		{name: "sends early", sendsEarly: true},
		{name: "misses unknown outcomes", missesUnknownOutcomes: true},
		{name: "settles unhandled", settlesUnhandled: true},
		{name: "settles unsaved", settlesUnsaved: true},
		{name: "requires no row", requiresNoRow: true},
		{name: "cancels in memory", cancelsInMemory: true},
		{name: "publishes early", committer: true, publishesEarly: true},
		{name: "publishes what is refused", committer: true, publishesRefused: true, shared: true},
		{name: "skips behind", skipsBehind: true},
		{name: "notes the position before the rows", notesFirst: true},
		{name: "compares no note", comparesNoNote: true, shared: true},
		{name: "takes a lost answer for nothing stored", takesLostForNotStored: true, comparesNoNote: true, exclusive: true},
		{name: "notes no position over nothing", notesNothingOverNothing: true},
		{name: "handles what is parked", handlesParked: true, parks: true},
		{name: "parks without the version", parksWithoutVersion: true, parks: true},
		{name: "unparks before the rows", unparksFirst: true, parks: true},
		{name: "feeds gaps", feedsGaps: true},
		{name: "prunes what is unread", prunesUnread: true},
	} {
		t.Run(tw.name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(twinSeedsMax) {
				w := newWorld(seed, tw)
				if fault := w.run(); fault != "" {
					t.Logf("caught with seed %d: %s", seed, fault)
					return
				}
			}
			t.Errorf("a world that %s breaks no promise in %d seeds", tw.name, twinSeedsMax)
		})
	}
}
