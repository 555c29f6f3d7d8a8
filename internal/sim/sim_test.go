package sim_test

import (
	"flag"
	"fmt"
	"testing"
)

var (
	oneSeed = flag.Int64("seed", -1, "run only this seed")
	seeds   = flag.Int("seeds", 300, "how many seeds to run")
)

// twinSeedsMax bounds the seeds that a broken twin gets to be caught with.
const twinSeedsMax = 200

func TestEntitiesKeepTheirWordWhateverFails(t *testing.T) {
	t.Parallel()
	from, to := uint64(1), uint64(*seeds)
	if *oneSeed >= 0 {
		from, to = uint64(*oneSeed), uint64(*oneSeed)
	}
	for seed := from; seed <= to; seed++ {
		w := newWorld(seed, twin{})
		if fault := w.run(); fault != "" {
			t.Fatalf("seed %d: %s\n\n%s\nTo see it again: go test ./internal/sim -run %s -seed=%d", seed, fault, w.tail(), t.Name(), seed)
		}
		if *oneSeed >= 0 {
			t.Logf("seed %d: %d steps, %d calls, hash %x\n%s", seed, w.steps, len(w.ops), w.hash, w.tail())
		}
	}
}

func TestASeedIsARun(t *testing.T) {
	t.Parallel()
	hashes := make(map[uint64]uint64)
	for seed := range uint64(20) {
		a, b := newWorld(seed, twin{}), newWorld(seed, twin{})
		a.run()
		b.run()
		if a.hash != b.hash || a.steps != b.steps {
			t.Errorf("two runs of seed %d: got hashes %x and %x after %d and %d steps, want the same", seed, a.hash, b.hash, a.steps, b.steps)
		}
		if other, ok := hashes[a.hash]; ok {
			t.Errorf("seeds %d and %d: got the same run", seed, other)
		}
		hashes[a.hash] = seed
	}
}

// A twin is a world with one mistake in it, of those that are made easily. The
// promises are worth what the twins say: each must be caught.
type twin struct {
	name              string
	shared, exclusive bool // the sort of store that shows the mistake
	committer         bool // and not one that commits on the spot

	settlesEarly             bool // the shell takes a submitted batch for a stored one
	takesUnknownForNotStored bool
	retriesUnknown           bool // the committer commits again what may be stored
	skipsCheck               bool // reads of a shared store come from memory alone
	answersPastGate          bool // a query does not wait for what it saw
	forgetsBusy              bool // an entity is passivated with calls in it
	losesFailures            bool // an entity does not hear of a failed group
	storesBehind             bool // the store accepts a batch behind a refused one
	forgivesLanes            bool // a lane is used again before it is empty
	forgivesOnTheSpot        bool // the same on a store that commits on the spot
	swapsResults             bool // results come back in another order
	readsOldData             bool // a load misses what was committed last

	keepsReceiptsApart bool // the receipt of a command is stored after its batch
	forgetsKeys        bool // a reload does not bring back the keys
	repeatsEarly       bool // a repetition is answered before the first answer is durable
	answersTwice       bool // the store accepts a second receipt for a key
	claimsTwice        bool // the store does not look who holds a value
	dispatchesEarly    bool // messages are delivered before they are stored
	sendsEarly         bool // effects are performed before their command is stored
	missesDoubted      bool // nobody looks for the messages of a commit in doubt
	settlesUnhandled   bool // a message is settled before its handler has done its work
	settlesUnsaved     bool // a message is forgotten though its settlement is not stored
	requiresNoRow      bool // a target does not ask whether the message is there
	cancelsInMemory    bool // the end of a timer is not stored
}

func TestABrokenTwinIsCaught(t *testing.T) {
	t.Parallel()
	for _, tw := range []twin{
		{name: "settles early", committer: true, settlesEarly: true},
		{name: "takes unknown for not stored", committer: true, takesUnknownForNotStored: true},
		{name: "retries unknown", committer: true, retriesUnknown: true},
		{name: "skips the check", skipsCheck: true, shared: true},
		{name: "answers past the gate", committer: true, answersPastGate: true, exclusive: true},
		{name: "forgets busy entities", committer: true, forgetsBusy: true},
		{name: "loses failures", committer: true, losesFailures: true},
		{name: "stores behind", committer: true, storesBehind: true, shared: true},
		{name: "forgives lanes", committer: true, forgivesLanes: true, shared: true},
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
		{name: "misses what is in doubt", missesDoubted: true},
		{name: "settles unhandled", settlesUnhandled: true},
		{name: "settles unsaved", settlesUnsaved: true},
		{name: "requires no row", requiresNoRow: true},
		{name: "cancels in memory", cancelsInMemory: true},
	} {
		t.Run(tw.name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(twinSeedsMax) {
				w := newWorld(seed, tw)
				if fault := caught(w); fault != "" {
					t.Logf("caught with seed %d: %s", seed, fault)
					return
				}
			}
			t.Errorf("a world that %s breaks no promise in %d seeds", tw.name, twinSeedsMax)
		})
	}
}

// caught runs a twin. A mistake may break so much that the world itself fails.
func caught(w *world) (fault string) {
	defer func() {
		if v := recover(); v != nil {
			fault = fmt.Sprint("panic: ", v)
		}
	}()
	return w.run()
}
