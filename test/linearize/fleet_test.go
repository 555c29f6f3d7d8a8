package linearize_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/perduretest"
	"github.com/perdure/perdure/store"
)

// rates are the fault rates of the store in a faulty run.
var rates = perduretest.Rates{
	NotStored: 0.01, FailBefore: 0.01, FailAfter: 0.015, PanicBefore: 0.005, PanicAfter: 0.005, WrongResults: 0.005,
	ReadFailBefore: 0.02, ReadFailAfter: 0.02,
}

// slowRate is the part of the commits that are delayed, by slowMax at most.
const (
	slowRate = 0.02
	slowMax  = 3 * time.Millisecond
)

// A fleet is the engines of a run on one store, which are closed and opened again while
// clients call them. It is a host.
type fleet struct {
	t    testing.TB
	sc   storeCase
	dir  string
	seed uint64

	mu      sync.RWMutex
	log     store.Log           // the store itself
	faults  *perduretest.Faults // faults injected into it, or nil
	engines []*machine          // nil while an engine is being opened
	changed chan struct{}       // closed when an engine has been opened
	opened  int
}

// A machine is one engine with its own kinds.
type machine struct {
	engine *perdure.Engine
	kinds  map[string]*perdure.Kind[*testv1.Account]
}

func newFleet(t testing.TB, sc storeCase, dir string, seed uint64) *fleet {
	t.Helper()
	f := &fleet{t: t, sc: sc, dir: dir, seed: seed, engines: make([]*machine, sc.engines), changed: make(chan struct{})}
	if err := f.openStore(); err != nil {
		t.Fatalf("open the store: %v", err)
	}
	for i := range f.engines {
		if err := f.openEngine(i); err != nil {
			t.Fatalf("open engine %d: %v", i, err)
		}
	}
	return f
}

// openStore opens the store, or reopens it if it was open before.
func (f *fleet) openStore() error {
	log, err := f.sc.open(f.t, f.dir, f.log)
	if err != nil {
		return err
	}
	f.log, f.faults = log, nil
	if !f.sc.bare {
		f.faults = perduretest.NewFaults(log)
		f.opened++
		f.faults.Hook(faulty(f.seed + uint64(f.opened)<<32))
	}
	return nil
}

// faulty returns the hook that draws the faults of a run at random.
func faulty(seed uint64) func(*perduretest.Call) perduretest.Fault {
	random := rand.New(rand.NewPCG(seed, 1))
	commits := []struct {
		rate  float64
		fault perduretest.Fault
	}{
		{rates.NotStored, perduretest.NotStored()},
		{rates.FailBefore, perduretest.FailBefore(nil)},
		{rates.FailAfter, perduretest.FailAfter(nil)},
		{rates.PanicBefore, perduretest.PanicBefore(perduretest.ErrInjected)},
		{rates.PanicAfter, perduretest.PanicAfter(perduretest.ErrInjected)},
		{rates.WrongResults, perduretest.WrongResults(0)},
	}
	return func(c *perduretest.Call) perduretest.Fault {
		x := random.Float64()
		switch c.Method {
		case perduretest.MethodCommit:
			if x < slowRate {
				released := make(chan struct{})
				time.AfterFunc(time.Duration(random.Int64N(int64(slowMax))), func() { close(released) })
				return perduretest.Delay(released)
			}
			x -= slowRate
			for _, c := range commits {
				if x -= c.rate; x < 0 {
					return c.fault
				}
			}
		case perduretest.MethodLoad, perduretest.MethodReceipt, perduretest.MethodReceipts:
			if x < rates.ReadFailBefore {
				return perduretest.FailBefore(nil)
			} else if x < rates.ReadFailBefore+rates.ReadFailAfter {
				return perduretest.FailAfter(nil)
			}
		}
		return perduretest.Pass()
	}
}

func (f *fleet) openEngine(i int) error {
	log := f.log
	if f.faults != nil {
		log = f.faults.Log()
	}
	m, err := newMachine(f.t.Context(), log)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.engines[i] = m
	close(f.changed)
	f.changed = make(chan struct{})
	f.mu.Unlock()
	return nil
}

func newMachine(ctx context.Context, log store.Log) (*machine, error) {
	m := &machine{kinds: map[string]*perdure.Kind[*testv1.Account]{ledgerKind: ledgers(), shelfKind: shelves()}}
	var err error
	m.engine, err = perdure.Open(ctx, perdure.Config{
		Store: log, Kinds: []perdure.AnyKind{m.kinds[ledgerKind], m.kinds[shelfKind]}, InFlightMax: 8,
	})
	return m, err
}

func (m *machine) ref(entity int) perdure.Ref[*testv1.Account] {
	key := entityKey(entity)
	return m.kinds[key.Kind].Ref(m.engine, key.ID)
}

// ref is part of [host]. It waits while an engine is being opened.
func (f *fleet) ref(ctx context.Context, n, entity int) (perdure.Ref[*testv1.Account], error) {
	for {
		f.mu.RLock()
		m, changed := f.engines[n%len(f.engines)], f.changed
		f.mu.RUnlock()
		if m != nil {
			return m.ref(entity), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return perdure.Ref[*testv1.Account]{}, ctx.Err()
		}
	}
}

// closeMax bounds the time to close an engine. hurry is the time limit that a close in a
// hurry gives to the calls in flight.
const (
	closeMax = 20 * time.Second
	hurry    = time.Millisecond
)

// restart closes an engine while clients call it, and opens another in its place. If it was
// the only one, the store is reopened as well. In a hurry, calls in flight are answered
// with errors.
func (f *fleet) restart(i int, inHurry bool) {
	f.t.Helper()
	f.mu.Lock()
	m := f.engines[i]
	f.engines[i] = nil
	f.mu.Unlock()
	f.closeEngine(m, inHurry)
	if f.sc.engines == 1 {
		if err := f.log.Close(); err != nil {
			f.t.Errorf("close the store: %v", err)
		}
		if err := f.openStore(); err != nil {
			f.t.Errorf("open the store again: %v", err)
			return
		}
	}
	if err := f.openEngine(i); err != nil {
		f.t.Errorf("open engine %d again: %v", i, err)
	}
}

func (f *fleet) closeEngine(m *machine, inHurry bool) {
	f.t.Helper()
	patience := closeMax
	if inHurry {
		patience = hurry
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := m.engine.Close(ctx); err != nil && !inHurry {
		f.t.Errorf("close an engine: %v", err)
	}
}

// calm ends all faults, closes the engines and the store, and returns the reopened store.
func (f *fleet) calm() store.Log {
	f.t.Helper()
	if f.faults != nil {
		f.faults.Clear()
	}
	for _, m := range f.engines {
		if m != nil {
			f.closeEngine(m, false)
		}
	}
	if err := f.log.Close(); err != nil {
		f.t.Errorf("close the store: %v", err)
	}
	log, err := f.sc.open(f.t, f.dir, f.log)
	if err != nil {
		f.t.Fatalf("open the store to look at it: %v", err)
	}
	return log
}
