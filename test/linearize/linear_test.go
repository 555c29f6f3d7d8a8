package linearize_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
)

var (
	seedFlag = flag.Uint64("seed", 0, "seed of the clients and of the faults; 0 draws one")
	opsFlag  = flag.Int("ops", 12, "commands and questions of each client")
)

const (
	entities = 50
	clients  = 8 // per entity
	restarts = 4 // restarts of an engine during a run
)

// runMax bounds a run of clients.
const runMax = 2 * time.Minute

// chooseSeed returns the seed of a test, and logs how to use it again.
func chooseSeed(t *testing.T) uint64 {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64N(1<<32) + 1
	}
	t.Logf("seed %d: go test ./test/linearize -run '^%s$' -seed=%d -ops=%d", seed, t.Name(), seed, *opsFlag)
	return seed
}

// TestLinearizableWhateverFails runs eight clients for each of fifty entities,
// on every store, with all faults at the same time.
func TestLinearizableWhateverFails(t *testing.T) {
	t.Parallel()
	for _, sc := range stores {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			seed := chooseSeed(t)
			f := newFleet(t, sc, t.TempDir(), seed)
			h := new(history)
			stop := f.watch(t)
			f.run(t, h, seed)
			stop()
			log := f.calm()
			look(t, h, log)
			checkAll(t, h, log)
			if err := log.Close(); err != nil {
				t.Errorf("close the store: %v", err)
			}
		})
	}
}

// run runs the clients of all entities, and restarts engines during that time.
func (f *fleet) run(t *testing.T, h *history, seed uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), runMax)
	defer cancel()
	var calls atomic.Int64
	var wg sync.WaitGroup
	ended := make(chan struct{})
	all := int64(entities * clients * *opsFlag)
	reached := make([]chan struct{}, restarts) // closed when it is time for a restart
	for i := range reached {
		reached[i] = make(chan struct{})
	}
	for n := range entities * clients {
		c := newClient(n, n%entities, seed, h, f)
		wg.Go(func() {
			for range *opsFlag {
				c.call(ctx)
				x := calls.Add(1)
				for i := range reached {
					if x == all*int64(i+1)/(restarts+1) {
						close(reached[i])
					}
				}
			}
		})
	}
	wg.Go(func() {
		for i, at := range reached {
			<-at
			f.restart(i%f.sc.engines, i%2 == 1)
		}
	})
	go func() { wg.Wait(); close(ended) }()
	<-ended
	if err := ctx.Err(); err != nil {
		t.Errorf("the clients have not come to an end in %v", runMax)
	}
}

// watch reads the events of the first engine as they come, until the engine is closed, and
// checks their order. Stop ends it.
func (f *fleet) watch(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	f.mu.RLock()
	m := f.engines[0]
	f.mu.RUnlock()
	go func() {
		defer close(done)
		var last store.Position
		for e, err := range m.engine.Events(ctx, store.Query{}) {
			if err != nil {
				return // the engine is closed, or a read of the store fails
			}
			if e.Position != last+1 {
				t.Errorf("a reader meets position %v after %v", e.Position, last)
			}
			last = e.Position
		}
	}()
	return func() { cancel(); <-done }
}

// look reads every state after the run, as part of the history.
func look(t *testing.T, h *history, log store.Log) {
	t.Helper()
	m, err := newMachine(t.Context(), log)
	if err != nil {
		t.Fatalf("open an engine to look at the store: %v", err)
	}
	for entity := range entities {
		o := &op{Client: entities * clients, Entity: entity, What: whatState}
		h.begin(o)
		s, err := m.ref(entity).State(t.Context())
		if err != nil {
			t.Fatalf("entity %d, when nothing fails any more: %v", entity, err)
		}
		o.Ending, o.Shows, o.Digest, o.Version = endDone, true, s.GetBalance(), s.GetOperations()
		h.end(o)
	}
	if err := m.engine.Close(t.Context()); err != nil {
		t.Errorf("close the engine that looks: %v", err)
	}
}

// checkAll checks the history of every entity against the log, and by porcupine.
func checkAll(t *testing.T, h *history, log store.Log) {
	t.Helper()
	counts := make(map[ending]int)
	undecided, events := 0, 0
	for entity := range entities {
		key := entityKey(entity)
		ops := h.of(entity)
		for _, o := range ops {
			counts[o.Ending]++
		}
		numbers, err := readNumbers(t.Context(), log, key)
		if err != nil {
			t.Errorf("%v: %v", key, err)
			continue
		}
		events += len(numbers)
		if err := checkEntity(key.Kind, numbers, ops); err != nil {
			t.Errorf("%v: %v\nlog: %v\nhistory:\n%s", key, err, numbers, lines(ops))
		}
		decided, err := linearizable(t, key.Kind, fmt.Sprintf("%s-%s", key.Kind, key.ID), numbers, ops)
		if err != nil {
			t.Errorf("%v: %v", key, err)
		}
		if !decided {
			undecided++
		}
	}
	t.Logf("%d versions; calls by ending: %v; not decided by porcupine in %v: %d of %d entities", events, counts, porcupineMax, undecided, entities)
	if counts[endDone] < entities*clients {
		t.Errorf("only %d calls were answered", counts[endDone])
	}
}

func lines(ops []*op) (s string) {
	for _, o := range ops {
		s += o.String() + "\n"
	}
	return s
}

// readNumbers returns the number of the command that made each version, from the events of
// an entity or from its saved state.
func readNumbers(ctx context.Context, log store.Log, key store.Key) (numbers []int64, err error) {
	if key.Kind == shelfKind {
		return shelfNumbers(ctx, log, key)
	}
	for e, err := range log.Read(ctx, key, 0) {
		if err != nil {
			return nil, err
		}
		if int(e.Version) != len(numbers)+1 {
			return nil, fmt.Errorf("version %d comes after version %d", e.Version, len(numbers))
		}
		// Deposited and Withdrawn have the same encoding: the number is the first field.
		m := new(testv1.Deposited)
		if err := proto.Unmarshal(e.Payload, m); err != nil {
			return nil, err
		}
		numbers = append(numbers, m.GetAmount())
	}
	return numbers, nil
}

func shelfNumbers(ctx context.Context, log store.Log, key store.Key) (numbers []int64, err error) {
	var version store.Version
	state := new(testv1.Account)
	var unread error
	for _, err := range log.Load(ctx, key, func(s *store.State) bool {
		version = s.Version
		unread = proto.Unmarshal(s.Payload, state)
		return true
	}) {
		if err != nil {
			return nil, err
		}
	}
	for _, n := range state.GetNotes() {
		number, err := strconv.ParseInt(n.GetText(), 10, 64)
		unread = errors.Join(unread, err)
		numbers = append(numbers, number)
	}
	if int(version) != len(numbers) {
		unread = errors.Join(unread, fmt.Errorf("it is at version %d and holds %d numbers", version, len(numbers)))
	}
	return numbers, unread
}
