package projectiontest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// A Misuse is a mistake of a rule that it does not report, such as a statement that fails and
// whose error the rule ignores.
type Misuse[Tx any] struct {
	Name string
	Do   func(ctx context.Context, tx Tx)
	// Stores says that the target cannot keep the rule from storing the writes that the
	// transaction has made so far. Then the event counts once for each attempt, and the events
	// before it in its batch count once more.
	Stores bool
	// Harmless says that the mistake does not change the transaction.
	Harmless bool
}

const (
	spoiltEntities = 20
	spoiltEvents   = 3
	spoiltAttempts = 2
	spoiltKind     = "entity"
	spoiltBad      = 10 // the number of the entity whose second event has the misuse
)

func ruleCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "a rule that spoils its transaction parks its own entity alone", needs: "Misuses", run: func(x *fixture[Tx]) {
			for _, m := range x.Misuses {
				x.misuse(m, x.open(x))
			}
		}},
		{name: "a target tells its own faults from those of events", needs: "Faults", run: func(x *fixture[Tx]) {
			c, ok := x.target.(projection.Classifier)
			if !ok {
				x.Fatalf("%T has faults of its own and is no projection.Classifier", x.target)
			}
			for _, fault := range x.Faults {
				if b := c.Blame(fmt.Errorf("rule: %w", fault)); b != projection.BlameTarget {
					x.Errorf("blame of %v: got %d, want %d, the target", fault, b, projection.BlameTarget)
				}
			}
			for _, other := range append([]error{&testError{"of a rule"}}, x.Failures...) {
				if b := c.Blame(fmt.Errorf("rule: %w", other)); b == projection.BlameTarget {
					x.Errorf("blame of %v: got the target, want the event or unknown", other)
				}
			}
		}},
		{name: "a transaction that rules have left alone passes its check", needs: "Checker", run: func(x *fixture[Tx]) {
			c := x.target.(projection.Checker[Tx])
			x.store("a", "0") // a runner has a note, so the transaction has one too
			x.update(func(tx Tx) error {
				if _, err := x.target.Note(x.ctx, tx, "a"); err != nil {
					return err
				}
				for range 2 {
					if err := c.Check(x.ctx, tx); err != nil {
						return fmt.Errorf("check: %w", err)
					}
					if err := x.write(tx, "a", "1"); err != nil {
						return err
					}
				}
				return c.Check(x.ctx, tx)
			})
			x.want("a", "1")
		}},
		{name: "a target that can be opened again is not volatile", needs: "Reopen", run: func(x *fixture[Tx]) {
			if v, ok := x.target.(projection.Volatile); ok && v.Volatile() {
				x.Errorf("%T keeps its data but reports that it is volatile", x.target)
			}
		}},
	}
}

// misuse runs a projection whose rule misuses its transaction at one event.
func (x *fixture[Tx]) misuse(m Misuse[Tx], target projection.Target[Tx]) {
	x.Helper()
	log, all := x.deposits()
	name := func(i int) string { return "e" + strconv.Itoa(i) }
	rule := projection.On(func(ctx context.Context, tx Tx, e projection.Event[*wrapperspb.Int64Value]) error {
		value, _, err := x.Get(ctx, tx, e.Key.ID)
		if err != nil {
			return err
		}
		n, _ := strconv.Atoi(value) // an empty value counts as 0
		if err := x.Put(ctx, tx, e.Key.ID, strconv.Itoa(n+1)); err != nil {
			return err
		}
		if e.Key.ID == name(spoiltBad) && e.Version == 2 {
			m.Do(ctx, tx)
		}
		return nil
	})
	r := projection.New("spoilt", rule).With(projection.Retry(projection.RetryPolicy{MaxAttempts: spoiltAttempts, MaxBackoff: time.Millisecond})).Into(target)
	var said buffer
	ctx, cancel := context.WithTimeout(x.ctx, x.wait)
	defer cancel()
	stopped := x.background("the projection", func() error {
		return projection.Run(ctx, projection.Config{Log: log, Logger: slog.New(slog.NewTextHandler(&said, nil))}, r)
	})
	err := r.AtLeast(ctx, store.NewPosition(0, uint64(all)))
	var parked []*projection.ParkedEntity
	if err == nil {
		for p, e := range r.Parked(ctx) {
			parked, err = append(parked, p), errors.Join(err, e)
		}
	}
	cancel()
	if e := stopped(); err != nil || e != nil {
		x.Fatalf("%s: the projection has not come to the end: %v, %v: %s", m.Name, err, e, short(said.last()))
	}
	counts := map[string]int{}
	for i := range spoiltEntities {
		if err := target.View(x.ctx, func(tx Tx) error {
			value, _, err := x.Get(x.ctx, tx, name(i))
			counts[name(i)], _ = strconv.Atoi(value)
			return err
		}); err != nil {
			x.Fatalf("%s: view: %v", m.Name, err)
		}
	}
	most := 0 // the number of events that may count too often
	if m.Stores {
		most = spoiltEvents
	}
	for i := range spoiltEntities {
		want := spoiltEvents
		if i == spoiltBad && !m.Harmless {
			want = 1
		}
		if n := counts[name(i)]; n < want || n > want+most {
			x.Errorf("%s: %s counts %d events, want %d and at most %d more", m.Name, name(i), n, want, most)
		}
	}
	if m.Harmless {
		if len(parked) > 0 {
			x.Errorf("%s: %d entities are parked, first %+v, want none", m.Name, len(parked), *parked[0])
		}
		return
	}
	if len(parked) != 1 || parked[0].Key.ID != name(spoiltBad) || parked[0].Version != 2 || parked[0].Attempts != spoiltAttempts {
		x.Errorf("%s: %d entities are parked, first %+v, want %s from 2 after %d attempts", m.Name, len(parked), first(parked), name(spoiltBad), spoiltAttempts)
	}
	where := fmt.Sprintf("entity=%s/%s", spoiltKind, name(spoiltBad))
	at := fmt.Sprintf("position=%d ", spoiltBad*spoiltEvents+2)
	if !said.line(where, at) {
		x.Errorf("%s: no line of the log has %q and %q: %s", m.Name, where, at, said.last())
	}
}

// first returns the first parked entity, for a message.
func first(parked []*projection.ParkedEntity) (p projection.ParkedEntity) {
	if len(parked) > 0 {
		p = *parked[0]
	}
	return p
}

// deposits returns a log with events of many entities, and their number.
func (x *fixture[Tx]) deposits() (log store.Log, all int) {
	x.Helper()
	log = memory.New(memory.WithPartitions(1))
	for i := range spoiltEntities {
		b := &store.Batch{Key: store.Key{Kind: spoiltKind, ID: "e" + strconv.Itoa(i)}}
		for j := range spoiltEvents {
			payload, err := proto.Marshal(wrapperspb.Int64(int64(j)))
			if err != nil {
				x.Fatal(err)
			}
			b.Events = append(b.Events, store.Event{ID: store.ID{byte(i + 1), byte(j)}, Type: "google.protobuf.Int64Value", Payload: payload})
			all++
		}
		results, err := log.Commit(x.ctx, []*store.Batch{b})
		if err != nil || results[0].Err != nil {
			x.Fatalf("commit: %v, %v", err, results)
		}
	}
	return log, all
}

// A buffer keeps the lines of a log.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// line reports whether one line contains all of the texts.
func (b *buffer) line(texts ...string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for line := range strings.Lines(b.b.String()) {
		has := true
		for _, t := range texts {
			has = has && strings.Contains(line, t)
		}
		if has {
			return true
		}
	}
	return false
}

// last returns the end of the log.
func (b *buffer) last() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.b.String()
	return s[max(0, len(s)-2000):]
}
