package storetest_test

import (
	"context"
	"flag"
	"iter"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/store/storetest"
)

func TestMain(m *testing.M) {
	// The mutants fail the model case on purpose, and its smallest failing sequence is of
	// no interest, so shrinking is short unless the command line sets it.
	if err := flag.Set("rapid.shrinktime", "100ms"); err != nil {
		panic(err)
	}
	flag.Parse()
	// Failure files of the mutants are of no use either.
	if err := flag.Set("rapid.nofailfile", "true"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// A twin is a mutant of the reference store: the hooks that are set replace parts of the
// store.
type twin struct {
	*memory.Log
	pause  func() // see storetest.Setup
	commit func(l *memory.Log, ctx context.Context, group []*store.Batch) ([]store.Result, error)
	load   func(l *memory.Log, ctx context.Context, key store.Key, accept func(*store.State) bool) iter.Seq2[*store.Event, error]
	read   func(seq iter.Seq2[*store.Event, error]) iter.Seq2[*store.Event, error]
	scan   func(l *memory.Log, ctx context.Context, q store.Query) iter.Seq2[*store.Event, error]
	heads  func([]store.Position) []store.Position

	export func(l *memory.Log, e store.Export) store.Export
	fill   func(store.Import) store.Import

	messages func(l *memory.Log, ctx context.Context, q store.MessageQuery) iter.Seq2[*store.Message, error]
	deleted  func([]store.Deletion) []store.Deletion
	prune    func(l *memory.Log, ctx context.Context, key store.Key, below store.Version, through store.Position) (int, error)
}

func (w *twin) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	if w.commit == nil {
		return w.Log.Commit(ctx, group)
	}
	return w.commit(w.Log, ctx, group)
}

func (w *twin) Load(ctx context.Context, key store.Key, accept func(*store.State) bool) iter.Seq2[*store.Event, error] {
	if w.load == nil {
		return w.Log.Load(ctx, key, accept)
	}
	return w.load(w.Log, ctx, key, accept)
}

func (w *twin) Read(ctx context.Context, key store.Key, after store.Version) iter.Seq2[*store.Event, error] {
	seq := w.Log.Read(ctx, key, after)
	if w.read == nil {
		return seq
	}
	return w.read(seq)
}

func (w *twin) Scan(ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
	if w.scan == nil {
		return w.Log.Scan(ctx, q)
	}
	return w.scan(w.Log, ctx, q)
}

func (w *twin) Heads(ctx context.Context) ([]store.Position, error) {
	heads, err := w.Log.Heads(ctx)
	if w.heads != nil {
		heads = w.heads(heads)
	}
	return heads, err
}

func (w *twin) Messages(ctx context.Context, q store.MessageQuery) iter.Seq2[*store.Message, error] {
	if w.messages == nil {
		return w.Log.Messages(ctx, q)
	}
	return w.messages(w.Log, ctx, q)
}

func (w *twin) DeleteEvents(ctx context.Context, key store.Key, below store.Version, through store.Position) (int, error) {
	if w.prune == nil {
		return w.Log.DeleteEvents(ctx, key, below, through)
	}
	return w.prune(w.Log, ctx, key, below, through)
}

func (w *twin) Deleted(ctx context.Context) ([]store.Deletion, error) {
	all, err := w.Log.Deleted(ctx)
	if w.deleted != nil {
		all = w.deleted(all)
	}
	return all, err
}

// each returns a commit function that changes every batch before it is stored.
func each(change func(*memory.Log, *store.Batch)) func(*memory.Log, context.Context, []*store.Batch) ([]store.Result, error) {
	return func(l *memory.Log, ctx context.Context, group []*store.Batch) ([]store.Result, error) {
		changed := make([]*store.Batch, len(group))
		for i, b := range group {
			c := *b
			changed[i] = &c
			change(l, &c)
		}
		return l.Commit(ctx, changed)
	}
}

// version returns the version of an entity.
func version(l *memory.Log, key store.Key) store.Version {
	for e, err := range l.Entities(context.Background(), key.Kind, "") {
		if err == nil && e.Key == key {
			return e.Version
		}
	}
	return 0
}

// model is the case with random sequences.
const model = "random groups leave what a simple model says"

// pausedCaught are the cases that catch a store that does not assign positions within the
// commit.
var pausedCaught = []string{
	"readers skip and double nothing while 64 commits pause",
	"readers skip and double nothing while 64 commits to many partitions pause",
}

// A spoiled store is a mutant with one fault, and the names of the cases that must catch
// it.
type spoiled struct {
	name   string
	spoil  func(*twin)
	caught []string
}

// twins are the mutants.
var twins = []spoiled{
	{"ignores the expected version", func(w *twin) {
		w.commit = func(l *memory.Log, ctx context.Context, group []*store.Batch) ([]store.Result, error) {
			var results []store.Result
			for _, b := range group {
				c := *b
				if !b.Key.IsZero() {
					c.Expected = version(l, b.Key)
				}
				r, err := l.Commit(ctx, []*store.Batch{&c})
				if err != nil {
					return nil, err
				}
				results = append(results, r...)
			}
			return results, nil
		}
	}, []string{model, "a conflicting batch stores nothing", "of sixteen writers that expect one version one wins"}},

	{"does not refuse batches behind a refused one", func(w *twin) {
		w.commit = func(l *memory.Log, ctx context.Context, group []*store.Batch) ([]store.Result, error) {
			var results []store.Result
			for _, b := range group {
				r, err := l.Commit(ctx, []*store.Batch{b})
				if err != nil {
					return nil, err
				}
				results = append(results, r...)
			}
			return results, nil
		}
	}, []string{model, "batches behind a refused one of the same entity are refused with it"}},

	{"refuses the whole group with one batch", func(w *twin) {
		w.commit = func(l *memory.Log, ctx context.Context, group []*store.Batch) ([]store.Result, error) {
			for _, b := range group {
				if version(l, b.Key) != b.Expected {
					group = slices.Clone(group)
					for i, b := range group {
						c := *b
						c.Expected = 1 << 60
						group[i] = &c
					}
					break
				}
			}
			return l.Commit(ctx, group)
		}
	}, []string{"a refused batch leaves other entities of the group alone", "results are in the order of the group"}},

	{"skips a position now and then", func(w *twin) {
		var n atomic.Int64
		w.commit = func(l *memory.Log, ctx context.Context, group []*store.Batch) ([]store.Result, error) {
			if n.Add(1)%3 == 2 {
				id := store.ID{15: byte(n.Load()), 14: 1}
				_, err := l.Commit(ctx, []*store.Batch{{
					Key: store.Key{Kind: "gap", ID: id.String()}, Events: []store.Event{{ID: id, Type: "gap"}},
				}})
				if err != nil {
					return nil, err
				}
			}
			return l.Commit(ctx, group)
		}
		w.scan = func(l *memory.Log, ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
			return without(l.Scan(ctx, q), func(e *store.Event) bool { return e.Key.Kind == "gap" })
		}
	}, []string{model, "positions are gapless under 64 writers", "only events take positions"}},

	{"stores half a batch", func(w *twin) {
		w.commit = each(func(_ *memory.Log, b *store.Batch) { b.Events = b.Events[:(len(b.Events)+1)/2] })
	}, []string{model, "the first batch of an entity makes its versions from 1", "a reader never sees half a batch"}},

	{"makes half of a batch visible before the rest", func(w *twin) {
		var scans atomic.Int64
		w.scan = func(l *memory.Log, ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
			return func(yield func(*store.Event, error) bool) {
				defer scans.Add(1)
				l.Scan(ctx, q)(yield)
			}
		}
		w.commit = func(l *memory.Log, ctx context.Context, group []*store.Batch) ([]store.Result, error) {
			for _, b := range group {
				if len(b.Events) < 2 {
					return l.Commit(ctx, group)
				}
			}
			var results []store.Result
			for _, b := range group {
				head, tail := *b, *b
				head.Events, head.Snapshot = b.Events[:1], nil
				tail.Events, tail.Expected = b.Events[1:], b.Expected+1
				if _, err := l.Commit(ctx, []*store.Batch{&head}); err != nil {
					return nil, err
				}
				// Wait until another goroutine has most likely read the half.
				for before, i := scans.Load(), 0; scans.Load() < before+2 && i < 1000; i++ {
					runtime.Gosched()
				}
				r, err := l.Commit(ctx, []*store.Batch{&tail})
				if err != nil {
					return nil, err
				}
				results = append(results, r...)
			}
			return results, nil
		}
	}, []string{"a reader never sees half a batch"}},

	{"stores events of a refused batch", func(w *twin) {
		w.commit = func(l *memory.Log, ctx context.Context, group []*store.Batch) ([]store.Result, error) {
			results, err := l.Commit(ctx, group)
			for i, r := range results {
				if r.Err != nil && len(group[i].Events) > 0 {
					stray := &store.Batch{Key: store.Key{Kind: "stray", ID: group[i].Events[0].ID.String()}, Events: group[i].Events}
					if _, err := l.Commit(ctx, []*store.Batch{stray}); err != nil {
						return nil, err
					}
				}
			}
			return results, err
		}
	}, []string{model, "a conflicting batch stores nothing", "positions have no gap after refused batches"}},

	{"yields events out of order", func(w *twin) {
		w.scan = func(l *memory.Log, ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
			return reversed(l.Scan(ctx, q))
		}
		w.read = reversed
	}, []string{model, "scan yields all events in the order of their positions", "read yields the events of an entity in order of version"}},

	{"misses the last event of a scan", func(w *twin) {
		w.scan = func(l *memory.Log, ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
			return beheaded(l.Scan(ctx, q))
		}
	}, []string{model, "no event is above the heads that a reader sees before it", "scan ends with Through"}},

	{"scans from the position instead of above it", func(w *twin) {
		w.scan = func(l *memory.Log, ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
			if q.After.Sequence() > 0 {
				q.After--
			}
			return l.Scan(ctx, q)
		}
	}, []string{"scan begins above After", "a reader that follows 64 writers sees each position once and in order"}},

	{"ignores the tags of a query", func(w *twin) {
		w.scan = func(l *memory.Log, ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
			q.Tags = nil
			return l.Scan(ctx, q)
		}
	}, []string{"scan selects by one tag", "scan selects by a kind, a type and a tag"}},

	{"ignores claims", func(w *twin) {
		w.commit = each(func(_ *memory.Log, b *store.Batch) { b.Claim = nil })
	}, []string{model, "a claimed value has its owner", "of sixteen entities that claim one value at once one wins"}},

	{"claims before it releases", func(w *twin) {
		w.commit = func(l *memory.Log, ctx context.Context, group []*store.Batch) ([]store.Result, error) {
			results, err := l.Commit(ctx, group)
			for i, r := range results {
				if b := group[i]; r.Err == nil && len(b.Release) > 0 {
					late := &store.Batch{Key: b.Key, Expected: b.Next(), Release: b.Release}
					if _, err := l.Commit(ctx, []*store.Batch{late}); err != nil {
						return nil, err
					}
				}
			}
			return results, err
		}
	}, []string{model, "a value that a batch releases can be claimed by the same batch"}},

	{"drops the checksum", func(w *twin) {
		w.read, w.scan = blind, func(l *memory.Log, ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
			return blind(l.Scan(ctx, q))
		}
	}, []string{"a damaged event is noticed by a byte in the middle", "a damaged event is noticed by its checksum"}},

	{"settles what is gone as if it were there", func(w *twin) {
		w.commit = each(func(_ *memory.Log, b *store.Batch) {
			b.Settle = slices.Clone(b.Settle)
			for i := range b.Settle {
				b.Settle[i].Required = false
			}
		})
	}, []string{model, "a settled message can be required only once by racing batches", "a batch cannot require one message twice"}},

	{"settles what another owner has", func(w *twin) {
		w.commit = each(func(_ *memory.Log, b *store.Batch) {
			b.Settle = slices.Clone(b.Settle)
			for i := range b.Settle {
				b.Settle[i].Conditional = false
			}
		})
	}, []string{
		model, "a conditional settlement leaves the message of another owner alone",
		"of two conditional settlements of a group the first wins",
	}},

	{"keeps a timer beside the one that replaces it", func(w *twin) {
		w.commit = each(func(_ *memory.Log, b *store.Batch) {
			b.Enqueue = slices.Clone(b.Enqueue)
			for i := range b.Enqueue {
				b.Enqueue[i].Timer = ""
			}
		})
	}, []string{model, "a timer replaces the timer of the same name"}},

	{"gives messages in order of sequence alone", func(w *twin) {
		w.messages = func(l *memory.Log, ctx context.Context, q store.MessageQuery) iter.Seq2[*store.Message, error] {
			return func(yield func(*store.Message, error) bool) {
				var all []*store.Message
				for m, err := range l.Messages(ctx, q) {
					if err != nil {
						yield(nil, err)
						return
					}
					all = append(all, m)
				}
				slices.SortFunc(all, func(a, b *store.Message) int { return int(a.Sequence) - int(b.Sequence) })
				for _, m := range all {
					if !yield(m, nil) {
						return
					}
				}
			}
		}
	}, []string{model, "pending messages come in order of due time, then of sequence"}},

	{"forgets snapshots", func(w *twin) {
		w.commit = each(func(_ *memory.Log, b *store.Batch) { b.Snapshot = nil })
	}, []string{model, "a snapshot is read back as it was written"}},

	{"forgets that it settled a required message", func(w *twin) {
		w.commit = each(func(_ *memory.Log, b *store.Batch) { b.Settle = nil })
	}, []string{model, "a settled message is gone"}},

	{"yields all events whatever is accepted", func(w *twin) {
		w.load = func(l *memory.Log, ctx context.Context, key store.Key, accept func(*store.State) bool) iter.Seq2[*store.Event, error] {
			return func(yield func(*store.Event, error) bool) {
				for _, err := range l.Load(ctx, key, accept) {
					if err != nil {
						yield(nil, err)
						return
					}
				}
				l.Read(ctx, key, 0)(yield)
			}
		}
	}, []string{model, "load with an accepted snapshot yields the events above it"}},

	{"deletes past the position", func(w *twin) {
		w.prune = func(l *memory.Log, ctx context.Context, key store.Key, below store.Version, _ store.Position) (int, error) {
			return l.DeleteEvents(ctx, key, below, store.LastPosition(0))
		}
	}, []string{"deletion ends at the given position"}},

	{"deletes and does not say so", func(w *twin) {
		w.deleted = func([]store.Deletion) []store.Deletion { return nil }
	}, []string{model, "a log tells the highest position that was deleted of a kind"}},

	{"tells of the first deletion only", func(w *twin) {
		var first []store.Deletion
		w.deleted = func(all []store.Deletion) []store.Deletion {
			if first == nil {
				first = all
			}
			return first
		}
	}, []string{model, "a deletion below an earlier one shows in its time alone"}},

	{"tells a head that nobody can read yet", func(w *twin) {
		w.heads = func(heads []store.Position) []store.Position {
			for i := range heads {
				heads[i]++
			}
			return heads
		}
	}, []string{model, "the heads of an empty log are before the first event"}},

	{"changes the batch", func(w *twin) {
		w.commit = func(l *memory.Log, ctx context.Context, group []*store.Batch) ([]store.Result, error) {
			results, err := l.Commit(ctx, group)
			for _, b := range group {
				for i := range b.Events {
					slices.Sort(b.Events[i].Tags)
				}
			}
			return results, err
		}
	}, []string{"the log does not change what the batch gives it"}},

	{"commits under a context that has ended", func(w *twin) {
		w.commit = func(l *memory.Log, ctx context.Context, group []*store.Batch) ([]store.Result, error) {
			return l.Commit(context.WithoutCancel(ctx), group)
		}
	}, []string{"a cancelled context before the commit stores nothing"}},

	{"forgets which events were stored together", func(w *twin) {
		w.scan = func(l *memory.Log, ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
			return without(l.Scan(ctx, q), func(e *store.Event) bool {
				e.Remaining = 0
				return false
			})
		}
	}, []string{"each event of a batch says how many of the batch follow"}},

	{"numbers events by a sequence before the commit", func(w *twin) {
		var sequence atomic.Uint64
		(&early{take: func(events int) (first, step uint64) {
			return sequence.Add(uint64(events)) - uint64(events) + 1, 1
		}}).spoil(w)
	}, pausedCaught},

	{"has readers follow the time at which a commit began", func(w *twin) {
		began := time.Now()
		(&early{take: func(int) (first, step uint64) {
			return uint64(time.Since(began)/time.Microsecond) + 1, 0
		}}).spoil(w)
	}, pausedCaught},

	{"shows a commit before it has ended", func(w *twin) {
		w.commit = func(l *memory.Log, ctx context.Context, group []*store.Batch) ([]store.Result, error) {
			defer w.pause()
			return l.Commit(ctx, group)
		}
	}, []string{"nobody sees a commit that pauses"}},
}

func TestSuiteCatchesBrokenStores(t *testing.T) {
	t.Parallel()
	for _, w := range slices.Concat(twins, wholeTwins) {
		for _, name := range w.caught {
			t.Run(w.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				if testing.Short() && name == model {
					t.Skip("-short: so few random groups catch a twin by luck")
				}
				failures := storetest.Watch(t, name, func(t testing.TB, s storetest.Setup) store.Log {
					pause := s.Pause
					if s.Pause = nil; pause == nil {
						pause = func() {}
					}
					log := &twin{Log: openMemory(t, s).(*memory.Log), pause: pause}
					w.spoil(log)
					return log
				}, twinFeatures)
				if len(failures) == 0 {
					t.Errorf("a store that %s passes the case %q", w.name, name)
				}
			})
		}
	}
}

// The twin without hooks has no fault, so the failures of the others come from their hooks.
func TestWholeTwinPasses(t *testing.T) {
	t.Parallel()
	checked := make(map[string]bool)
	for _, w := range slices.Concat(twins, wholeTwins) {
		for _, name := range w.caught {
			if checked[name] {
				continue
			}
			checked[name] = true
			if testing.Short() && name == model {
				continue // no mutant runs it with -short either
			}
			failures := storetest.Watch(t, name, func(t testing.TB, s storetest.Setup) store.Log {
				return &twin{Log: openMemory(t, s).(*memory.Log)}
			}, twinFeatures)
			if len(failures) > 0 {
				t.Errorf("case %q fails without reason: %q", name, failures)
			}
		}
	}
}

func TestCasesHaveNamesOfTheirOwn(t *testing.T) {
	t.Parallel()
	names := storetest.Names()
	seen := make(map[string]bool)
	for _, name := range names {
		if seen[name] {
			t.Errorf("two cases are named %q", name)
		}
		seen[name] = true
	}
	if len(names) < 100 {
		t.Errorf("the suite has %d cases, want at least 100", len(names))
	}
}

var twinFeatures = func() storetest.Features {
	f := memoryFeatures
	f.Reopen, f.Share = nil, nil
	f.Damage = func(t testing.TB, log store.Log, record any, flip func([]byte)) store.Log {
		if err := log.(*twin).Corrupt(record, flip); err != nil {
			t.Fatalf("corrupt: %v", err)
		}
		return log
	}
	return f
}()

// without omits the events for which hidden returns true.
func without(seq iter.Seq2[*store.Event, error], hidden func(*store.Event) bool) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		for e, err := range seq {
			if err == nil && hidden(e) {
				continue
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

func collect(seq iter.Seq2[*store.Event, error]) (events []*store.Event, err error) {
	for e, err := range seq {
		if err != nil {
			return events, err
		}
		events = append(events, e.Clone())
	}
	return events, nil
}

// emit yields the events, and then the error if there is one.
func emit(events []*store.Event, err error, yield func(*store.Event, error) bool) {
	for _, e := range events {
		if !yield(e, nil) {
			return
		}
	}
	if err != nil {
		yield(nil, err)
	}
}

// reversed yields events from last to first.
func reversed(seq iter.Seq2[*store.Event, error]) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		events, err := collect(seq)
		slices.Reverse(events)
		emit(events, err, yield)
	}
}

// beheaded omits the last event.
func beheaded(seq iter.Seq2[*store.Event, error]) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		events, err := collect(seq)
		emit(events[:max(len(events)-1, 0)], err, yield)
	}
}

// blind ends a sequence at a damaged record, without the error.
func blind(seq iter.Seq2[*store.Event, error]) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		events, _ := collect(seq)
		emit(events, nil, yield)
	}
}
