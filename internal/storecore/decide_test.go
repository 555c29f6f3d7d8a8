package storecore_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

var errDamaged = errors.New("the record is damaged")

type ownName struct {
	key  store.Key
	name string
}

// A world is a log in maps: the target of the batches that Decide accepts.
type world struct {
	heads    map[store.Key]storecore.Head
	messages map[uint64]store.Message
	timers   map[ownName]uint64
	receipts map[ownName]bool
	claims   map[store.Claim]store.Key
	sequence uint64
	// damaged holds the entities and receipts that cannot be read.
	damaged map[ownName]bool
	applied []*store.Batch
}

func newWorld() *world {
	return &world{
		heads: map[store.Key]storecore.Head{}, messages: map[uint64]store.Message{}, timers: map[ownName]uint64{},
		receipts: map[ownName]bool{}, claims: map[store.Claim]store.Key{}, damaged: map[ownName]bool{},
	}
}

func (w *world) clone() *world {
	return &world{
		heads: maps.Clone(w.heads), messages: maps.Clone(w.messages), timers: maps.Clone(w.timers), receipts: maps.Clone(w.receipts),
		claims: maps.Clone(w.claims), sequence: w.sequence, damaged: w.damaged, applied: slices.Clone(w.applied),
	}
}

func (w *world) Head(key store.Key) (storecore.Head, error) {
	if w.damaged[ownName{key, ""}] {
		return storecore.Head{}, errDamaged
	}
	return w.heads[key], nil
}

func (w *world) Readable(b *store.Batch) error {
	for _, name := range b.Forget {
		if w.damaged[ownName{b.Key, name}] {
			return errDamaged
		}
	}
	return nil
}

func (w *world) Message(sequence uint64) (*store.Message, error) {
	if m, ok := w.messages[sequence]; ok {
		return &m, nil
	}
	return nil, nil
}

func (w *world) Timer(key store.Key, name string) (*store.Message, error) {
	if w.damaged[ownName{key, name}] {
		return nil, errDamaged
	}
	return w.Message(w.timers[ownName{key, name}])
}

func (w *world) HasReceipt(key store.Key, name string) (bool, error) {
	if w.damaged[ownName{key, name}] {
		return false, errDamaged
	}
	return w.receipts[ownName{key, name}], nil
}

func (w *world) ClaimOwner(c store.Claim) (*store.Claimed, error) {
	if w.damaged[ownName{store.Key{Kind: c.Space, ID: c.Value}, ""}] {
		return nil, errDamaged
	}
	if owner, ok := w.claims[c]; ok {
		return &store.Claimed{Claim: c, Owner: owner}, nil
	}
	return nil, nil
}

func (w *world) Apply(b *store.Batch, h storecore.Head, _ *store.Result) error {
	w.applied = append(w.applied, b)
	if h != w.heads[b.Key] {
		return fmt.Errorf("got head %v, want %v", h, w.heads[b.Key])
	}
	if !b.Key.IsZero() {
		w.heads[b.Key] = storecore.Head{Version: b.Next(), Saved: h.Saved || b.Save != nil}
	}
	remove := func(sequence uint64) {
		maps.DeleteFunc(w.timers, func(_ ownName, s uint64) bool { return s == sequence })
		delete(w.messages, sequence)
	}
	for _, s := range b.Settle {
		if old, ok := w.messages[s.Sequence]; !ok || s.Misses(&old) {
			continue
		}
		if s.Message == nil {
			remove(s.Sequence)
		} else {
			w.messages[s.Sequence] = *s.Message
		}
	}
	for _, name := range b.Cancel {
		remove(w.timers[ownName{b.Key, name}])
	}
	for _, m := range b.Enqueue {
		w.sequence++
		if m.Timer != "" {
			remove(w.timers[ownName{b.Key, m.Timer}])
			w.timers[ownName{b.Key, m.Timer}] = w.sequence
		}
		m.Source = b.Key
		w.messages[w.sequence] = m
	}
	for _, name := range b.Forget {
		delete(w.receipts, ownName{b.Key, name})
	}
	for _, r := range b.Receipts {
		w.receipts[ownName{b.Key, r.Name}] = true
	}
	for _, c := range b.Release {
		if w.claims[c] == b.Key {
			delete(w.claims, c)
		}
	}
	for _, c := range b.Claim {
		w.claims[c] = b.Key
	}
	return nil
}

// refusals returns the errors of all rules that a batch breaks, as plainly as they can be
// written. Decide may report any of them.
func (w *world) refusals(b *store.Batch, behind bool) (reasons []error) {
	add := func(broken bool, reason error) {
		if broken {
			reasons = append(reasons, reason)
		}
	}
	if !b.Key.IsZero() {
		h := w.heads[b.Key]
		add(behind || h.Version != b.Expected, store.ErrConflict)
		add(b.Save != nil && h.Version > 0 && !h.Saved, store.ErrInvalid)
		add(h.Saved && len(b.Events) > 0, store.ErrInvalid)
		add(h.Saved && b.Snapshot != nil, store.ErrInvalid)
		add(w.damaged[ownName{b.Key, ""}], errDamaged)
	}
	left := maps.Clone(w.messages)
	for _, s := range b.Settle {
		m, there := left[s.Sequence]
		if s.Conditional && (m.Owner != s.IfOwner || m.Parked != s.IfParked) {
			there = false
		}
		add(s.Required && !there, store.ErrMessageGone)
		if there && s.Message == nil {
			delete(left, s.Sequence)
		}
		if n := s.Message; there && n != nil {
			add(n.ID != m.ID || n.Source != m.Source || n.Timer != m.Timer || !n.Time.Equal(m.Time), store.ErrInvalid)
		}
	}
	names := slices.Concat(b.Cancel, b.Forget)
	for _, m := range b.Enqueue {
		if m.Timer != "" {
			names = append(names, m.Timer)
		}
	}
	for _, r := range b.Receipts {
		if !slices.Contains(b.Forget, r.Name) {
			names = append(names, r.Name)
			add(w.receipts[ownName{b.Key, r.Name}], store.ErrAnswered)
		}
	}
	for _, name := range names {
		add(w.damaged[ownName{b.Key, name}], errDamaged)
	}
	for _, c := range b.Claim {
		owner, held := w.claims[c]
		add(held && owner != b.Key, store.ErrClaimed)
	}
	for _, c := range slices.Concat(b.Release, b.Claim) {
		add(w.damaged[ownName{store.Key{Kind: c.Space, ID: c.Value}, ""}], errDamaged)
	}
	return reasons
}

func drawKey(t *rapid.T) store.Key {
	return store.Key{Kind: "k", ID: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "entity")}
}

func drawMessage(t *rapid.T) store.Message {
	return store.Message{
		ID: store.ID{rapid.ByteRange(1, 2).Draw(t, "id")}, Timer: rapid.SampledFrom([]string{"", "", "t1", "t2"}).Draw(t, "timer"),
		Owner: rapid.Uint64Range(0, 1).Draw(t, "owner"), Parked: rapid.Bool().Draw(t, "parked"), Time: time.Unix(rapid.Int64Range(1, 2).Draw(t, "time"), 0),
	}
}

func drawSettlement(t *rapid.T, w *world) store.Settlement {
	s := store.Settlement{
		Sequence: rapid.Uint64Range(1, w.sequence+2).Draw(t, "sequence"), Required: rapid.Bool().Draw(t, "required"),
		Conditional: rapid.Bool().Draw(t, "conditional"), IfOwner: rapid.Uint64Range(0, 1).Draw(t, "if owner"), IfParked: rapid.Bool().Draw(t, "if parked"),
	}
	switch rapid.IntRange(0, 3).Draw(t, "settle") {
	case 0:
		m := drawMessage(t)
		s.Message = &m
	case 1:
		if m, ok := w.messages[s.Sequence]; ok {
			m.Owner = rapid.Uint64Range(0, 1).Draw(t, "new owner")
			s.Message = &m
		}
	}
	return s
}

func drawBatch(t *rapid.T, w *world) *store.Batch {
	b := &store.Batch{}
	some := func(what string) bool { return rapid.IntRange(0, 3).Draw(t, what) == 0 }
	for some("settles") {
		s := drawSettlement(t, w)
		if !slices.ContainsFunc(b.Settle, func(o store.Settlement) bool { return o.Sequence == s.Sequence && o.Message != nil }) {
			b.Settle = append(b.Settle, s)
			if s.Message == nil && rapid.Bool().Draw(t, "twice") {
				b.Settle = append(b.Settle, s)
			}
		}
	}
	if some("no key") {
		return b
	}
	b.Key = drawKey(t)
	b.Expected = w.heads[b.Key].Version + store.Version(rapid.SampledFrom([]int{0, 0, 0, 0, 1}).Draw(t, "ahead"))
	switch rapid.IntRange(0, 4).Draw(t, "part") {
	case 0, 1:
		b.Events = make([]store.Event, rapid.IntRange(1, 2).Draw(t, "events"))
	case 2:
		b.Save = &store.State{}
	case 3:
		b.Snapshot = &store.State{}
	}
	names := rapid.SampledFrom([]string{"n1", "n2", "n3"})
	for some("cancels") {
		b.Cancel = append(b.Cancel, rapid.SampledFrom([]string{"t1", "t2"}).Draw(t, "cancel"))
	}
	for some("enqueues") {
		b.Enqueue = append(b.Enqueue, drawMessage(t))
	}
	for some("forgets") {
		b.Forget = append(b.Forget, names.Draw(t, "forget"))
	}
	for some("answers") {
		b.Receipts = append(b.Receipts, store.Receipt{Name: names.Draw(t, "receipt")})
	}
	claims := rapid.SampledFrom([]store.Claim{{Space: "s", Value: "1"}, {Space: "s", Value: "2"}})
	for some("releases") {
		b.Release = append(b.Release, claims.Draw(t, "release"))
	}
	for some("claims") {
		b.Claim = append(b.Claim, claims.Draw(t, "claim"))
	}
	return b
}

// TestDecide compares Decide with rules that are written as plainly as possible.
func TestDecide(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		real := newWorld()
		for range rapid.IntRange(1, 12).Draw(t, "groups") {
			if rapid.IntRange(0, 9).Draw(t, "damage") == 0 {
				real.damaged[ownName{drawKey(t), rapid.SampledFrom([]string{"", "n1", "t1"}).Draw(t, "damaged")}] = true
				real.damaged[ownName{store.Key{Kind: "s", ID: "2"}, ""}] = rapid.Bool().Draw(t, "damaged claim")
			}
			model := real.clone()
			group := make([]*store.Batch, rapid.IntRange(1, 6).Draw(t, "batches"))
			results := make([]store.Result, len(group))
			ahead := real.clone() // so that most batches of a group follow the ones before
			for i := range group {
				if rapid.IntRange(0, 15).Draw(t, "invalid") == 0 {
					results[i].Err = store.ErrTooLarge
					if rapid.Bool().Draw(t, "nil") {
						continue
					}
				}
				group[i] = drawBatch(t, ahead)
				_ = ahead.Apply(group[i], ahead.heads[group[i].Key], nil)
			}
			before := slices.Clone(results)
			refused, err := storecore.Decide(real, group, results)
			if err != nil {
				t.Fatalf("decide: %v", err)
			}
			compare(t, model, group, before, results, refused)
			if diff := cmp.Diff(model, real, cmp.AllowUnexported(world{}, ownName{}), cmp.Comparer(func(a, b *store.Batch) bool { return a == b })); diff != "" {
				t.Fatalf("the log differs (-want +got):\n%s", diff)
			}
		}
	})
}

// compare decides the group by the plain rules, and compares the results.
func compare(t *rapid.T, model *world, group []*store.Batch, before, results []store.Result, refused bool) {
	behind, any := map[store.Key]bool{}, false
	for i, b := range group {
		got := results[i].Err
		if before[i].Err != nil {
			if !errors.Is(got, before[i].Err) {
				t.Fatalf("batch %d was invalid and has error %v, want %v", i, got, before[i].Err)
			}
			if b != nil {
				behind[b.Key] = true
			}
			continue
		}
		reasons := model.refusals(b, behind[b.Key])
		if len(reasons) == 0 && got == nil {
			if err := model.Apply(b, model.heads[b.Key], nil); err != nil {
				t.Fatalf("apply: %v", err)
			}
			continue
		}
		any = true
		if !slices.ContainsFunc(reasons, func(reason error) bool { return errors.Is(got, reason) }) {
			t.Fatalf("batch %d: got error %v, want one of %v; batch %+v", i, got, reasons, b)
		}
		if c, ok := errors.AsType[*store.ConflictError](got); ok && c.AfterRefused != behind[b.Key] {
			t.Fatalf("batch %d: conflict says behind a refused batch: %v, want %v", i, c.AfterRefused, behind[b.Key])
		}
		behind[b.Key] = true
	}
	if refused != any {
		t.Fatalf("decide reports that it refused a batch: %v, want %v", refused, any)
	}
}
