package crashtest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/crashtest"
	"github.com/perdure/perdure/store/memory"
)

// A doubled log answers from one log and stores in another. The judge reads the second one.
type doubled struct {
	*memory.Log
	kept *memory.Log
	// spoil changes a group before it is stored, and reports whether it did. It is called
	// for each group until it has changed one.
	spoil func(group []*store.Batch) ([]*store.Batch, bool)
	// answer changes the answer to the spoilt group.
	answer func(results []store.Result) ([]store.Result, error)
	spoilt bool
}

func clone(group []*store.Batch) (c []*store.Batch) {
	b, err := json.Marshal(group)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		panic(err) // every group can be encoded
	}
	return c
}

func (l *doubled) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	kept, now := clone(group), false
	if !l.spoilt {
		kept, now = l.spoil(kept)
		l.spoilt = now
	}
	if _, err := l.kept.Commit(ctx, kept); err != nil {
		return nil, err
	}
	results, err := l.Log.Commit(ctx, group)
	if now && l.answer != nil && err == nil {
		return l.answer(results)
	}
	return results, err
}

// each makes a spoil function that spoils the first batch for which fn returns true.
func each(fn func(b *store.Batch) bool) func([]*store.Batch) ([]*store.Batch, bool) {
	return func(group []*store.Batch) ([]*store.Batch, bool) {
		return group, slices.ContainsFunc(group, fn)
	}
}

// own reports whether all entities of the group belong to one client.
func own(group []*store.Batch) bool {
	return !slices.ContainsFunc(group, func(b *store.Batch) bool { return strings.HasPrefix(b.Key.ID, "shared") })
}

const commandsOfClient = 60

func newDoubled() *doubled {
	return &doubled{Log: memory.New(), kept: memory.New(), spoil: func(g []*store.Batch) ([]*store.Batch, bool) { return g, false }}
}

func TestJudgeAcceptsASoundLog(t *testing.T) {
	t.Parallel()
	l := newDoubled()
	h := crashtest.Work(t, l, commandsOfClient)
	if wrong := h.Judge(t, l.kept); len(wrong) > 0 {
		t.Errorf("judgement of a sound log: %q", wrong)
	}
}

// receiptsFit limits the receipts of a spoilt batch to the versions that it makes, because
// the log refuses others.
func receiptsFit(b *store.Batch) {
	for i := range b.Receipts {
		b.Receipts[i].Version = min(b.Receipts[i].Version, b.Next())
	}
}

func TestJudgeNoticesMistakesOfALog(t *testing.T) {
	t.Parallel()
	const manyClaims = 50 // nearly all claims of the run
	var held []*store.Batch
	claims := 0
	for _, c := range []struct {
		name, want string
		spoil      func(group []*store.Batch) ([]*store.Batch, bool)
		answer     func(results []store.Result) ([]store.Result, error)
	}{
		{name: "a batch is lost", want: "was acknowledged and is lost", spoil: each(func(b *store.Batch) bool {
			*b = store.Batch{Key: b.Key, Expected: b.Expected}
			return true
		})},
		{name: "a receipt is lost", want: "receipt is missing", spoil: each(func(b *store.Batch) bool {
			had := len(b.Receipts) > 0 && len(b.Events) > 0
			if had {
				b.Receipts = nil
			}
			return had
		})},
		{name: "a message is lost", want: "message 0 is missing", spoil: each(func(b *store.Batch) bool {
			had := len(b.Enqueue) == 1
			b.Enqueue = b.Enqueue[min(1, len(b.Enqueue)):]
			return had
		})},
		{name: "a claim is lost", want: "claim is missing", spoil: each(func(b *store.Batch) bool {
			if claims += len(b.Claim); claims < manyClaims {
				return false // a later command may release it
			}
			had := len(b.Claim) > 0
			b.Claim = nil
			return had
		})},
		{name: "events are lost beside a receipt", want: "event 1 is missing", spoil: each(func(b *store.Batch) bool {
			had := len(b.Events) > 1 && len(b.Receipts) > 0
			if had {
				b.Events = b.Events[:1]
				receiptsFit(b)
			}
			return had
		})},
		{name: "a saved state is lost", want: "is at version 0, not 1", spoil: each(func(b *store.Batch) bool {
			had := b.Save != nil
			b.Save = nil
			receiptsFit(b)
			return had
		})},
		{name: "a settled message is kept", want: "though it was settled", spoil: each(func(b *store.Batch) bool {
			had := len(b.Settle) > 0
			b.Settle = nil
			return had
		})},
		{name: "a released claim is kept", want: "though it was released", spoil: each(func(b *store.Batch) bool {
			had := len(b.Release) > 0
			b.Release = nil
			return had
		})},
		{name: "a payload is changed", want: "event 0 is not what was committed", spoil: each(func(b *store.Batch) bool {
			if len(b.Events) == 0 || len(b.Events[0].Payload) < 200 {
				return false
			}
			b.Events[0].Payload[150] ^= 1
			return true
		})},
		{name: "a reply is changed", want: "the receipt is of", spoil: each(func(b *store.Batch) bool {
			if len(b.Receipts) == 0 {
				return false
			}
			b.Receipts[0].Reply = nil
			return true
		})},
		{name: "something is stored that nobody has committed", want: "is of no command", spoil: func(group []*store.Batch) ([]*store.Batch, bool) {
			e := store.Event{ID: store.ID{1}, Type: "crash.v1.Happened", Payload: []byte("9.9.9.9.event0 ")}
			return append(group, &store.Batch{Key: store.Key{Kind: "other", ID: "other"}, Events: []store.Event{e}}), true
		}},
		{name: "a batch is stored twice", want: "is stored twice", spoil: func(group []*store.Batch) ([]*store.Batch, bool) {
			i := slices.IndexFunc(group, func(b *store.Batch) bool { return len(b.Events) > 0 })
			if i < 0 {
				return group, false
			}
			e := group[i].Events[0]
			return append(group, &store.Batch{Key: store.Key{Kind: "other", ID: "other"}, Events: []store.Event{e}}), true
		}},
		{name: "commands change their order", want: "behind command", spoil: func(group []*store.Batch) ([]*store.Batch, bool) {
			// The first command of client 0 is held back and stored behind the client's
			// next one.
			first := func(b *store.Batch) bool { return b.Key.Kind == "ledger" && strings.HasPrefix(b.Key.ID, "0-") }
			switch {
			case !slices.ContainsFunc(group, first) || !own(group):
				return group, false
			case held == nil:
				held = group
				return nil, false
			}
			return append(group, held...), true
		}},
		{
			name: "a refused batch is stored", want: "was refused", spoil: each(func(b *store.Batch) bool { return len(b.Events) > 0 }),
			answer: func(results []store.Result) ([]store.Result, error) {
				for i := range results {
					results[i].Err = store.ErrConflict
				}
				return results, nil
			},
		},
		{
			name: "a position is not the one that was answered", want: "acknowledged at position", spoil: each(func(b *store.Batch) bool { return len(b.Events) > 0 }),
			answer: func(results []store.Result) ([]store.Result, error) {
				for i := range results {
					results[i].Position += 100
				}
				return results, nil
			},
		},
		{
			name: "an error claims too much", want: "batches are stored", spoil: each(func(b *store.Batch) bool { return len(b.Events) > 0 }),
			answer: func([]store.Result) ([]store.Result, error) {
				return nil, store.ErrNotStored
			},
		},
		{name: "a group is stored in part", want: "batches of its group are stored", spoil: func(group []*store.Batch) ([]*store.Batch, bool) {
			if len(group) < 2 || !own(group) {
				return group, false
			}
			return group[:1], true
		}, answer: func([]store.Result) ([]store.Result, error) {
			return nil, errors.New("unknown")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newDoubled()
			l.spoil, l.answer = c.spoil, c.answer
			h := crashtest.Work(t, l, commandsOfClient)
			if !l.spoilt {
				t.Fatal("no group was spoilt")
			}
			wantWrong(t, h.Judge(t, l.kept), c.want)
		})
	}
}

func wantWrong(t *testing.T, wrong []string, want string) {
	t.Helper()
	if !slices.ContainsFunc(wrong, func(w string) bool { return strings.Contains(w, want) }) {
		t.Errorf("judgement: got %q, want one that says %q", wrong, want)
	}
}

// A liar is a log that reads wrongly.
type liar struct {
	*memory.Log
	heads func([]store.Position)
	skip  func(e *store.Event) bool
	twist func(e *store.Event)
}

func (l *liar) Heads(ctx context.Context) ([]store.Position, error) {
	heads, err := l.Log.Heads(ctx)
	if l.heads != nil {
		l.heads(heads)
	}
	return heads, err
}

func (l *liar) Scan(ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		for e, err := range l.Log.Scan(ctx, q) {
			if l.skip != nil && l.skip(e) {
				continue
			}
			if l.twist != nil {
				l.twist(e)
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

func (l *liar) Read(ctx context.Context, key store.Key, after store.Version) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		for e, err := range l.Log.Read(ctx, key, after) {
			if l.skip == nil && l.heads == nil && l.twist == nil && e.Version > 3 {
				return
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

func TestJudgeNoticesALogThatReadsWrongly(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, want string
		liar       liar
	}{
		{"a head that is too high", "head is", liar{heads: func(heads []store.Position) { heads[0]++ }}},
		{"a gap", "comes after", liar{skip: func(e *store.Event) bool { return e.Position == 5 }}},
		{"a scan that ends early", "the last event is at", liar{skip: func(e *store.Event) bool { return e.Position > 50 }}},
		{"an entity that ends early", "read ends at version 3", liar{}},
		{"a version that is wrong", "is due", liar{twist: func(e *store.Event) {
			if e.Position == 9 {
				e.Version++
			}
		}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			log := memory.New()
			h := crashtest.Work(t, log, commandsOfClient)
			c.liar.Log = log
			wantWrong(t, h.Judge(t, &c.liar), c.want)
		})
	}
}

func TestCommandInFlightMayBeStoredOrNot(t *testing.T) {
	t.Parallel()
	const lost = 3 // the last command of each client
	l := newDoubled()
	n := 0
	l.spoil = func(group []*store.Batch) ([]*store.Batch, bool) {
		if n++; n > 3*commandsOfClient-lost {
			return nil, false
		}
		return group, false
	}
	h := crashtest.Work(t, l, commandsOfClient)
	if wrong := h.Judge(t, l.kept); len(wrong) == 0 {
		t.Error("judgement of a log that has lost acknowledged commands: got nothing wrong")
	}
	h = crashtest.Work(t, func() store.Log { n = 0; l.Log, l.kept = memory.New(), memory.New(); return l }(), commandsOfClient)
	h.Forget(lost)
	if wrong := h.Judge(t, l.kept); len(wrong) > 0 {
		t.Errorf("judgement of a log without the commands in flight: %q", wrong)
	}
	wantWrong(t, h.Judge(t, l.Log), "it was read as stored false, now stored is true")
}

func TestEventThatIsWholeIsTheSameBytes(t *testing.T) {
	t.Parallel()
	log := memory.New()
	crashtest.Work(t, log, 1)
	seen := map[string]bool{}
	for e, err := range log.Scan(t.Context(), store.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		if seen[string(e.Payload)] || !bytes.Contains(e.Payload, []byte(" ")) {
			t.Errorf("payload of %v: got %s, want one of its own", e.Position, fmt.Sprintf("%.40q", e.Payload))
		}
		seen[string(e.Payload)] = true
	}
}
