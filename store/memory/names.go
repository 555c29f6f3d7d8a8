package memory

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/perdure/perdure/store"
)

// checkReceipts refuses a batch with a receipt that exists already.
func (l *Log) checkReceipts(b *store.Batch) error {
	if len(b.Receipts) == 0 {
		return nil
	}
	e := l.find(b.Key)
	if e == nil || e.rare == nil {
		return nil
	}
	for i := range b.Receipts {
		name := b.Receipts[i].Name
		if _, kept := e.rare.receipts.get(named{name: name}); kept && !slices.Contains(b.Forget, name) {
			return &store.AnsweredError{Key: b.Key, Name: name}
		}
	}
	return nil
}

func (l *Log) putReceipts(e *entity, b *store.Batch, r *store.Result) {
	if len(b.Forget)+len(b.Receipts) == 0 {
		return
	}
	kept := &e.more().receipts
	for _, name := range b.Forget {
		kept.remove(named{name: name})
	}
	for i := range b.Receipts {
		c := &b.Receipts[i]
		c.Entity, c.Time = b.Key, r.Time
		if c.Position == 0 {
			c.Position = r.Position
		}
		kept.put(named{strings.Clone(c.Name), store.AppendReceipt(nil, c)})
	}
}

// Receipt implements [store.Receipts].
func (l *Log) Receipt(ctx context.Context, key store.Key, name string) (*store.Receipt, error) {
	sealed, err := l.sealedReceipt(ctx, key, name)
	if err == nil {
		var r *store.Receipt
		if r, err = store.DecodeReceipt(sealed); err == nil {
			return r, nil
		}
	}
	return nil, fmt.Errorf("receipt %q of %v: %w", name, key, where(err, key, 0, 0))
}

func (l *Log) sealedReceipt(ctx context.Context, key store.Key, name string) ([]byte, error) {
	unlock, err := l.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if e := l.find(key); e != nil && e.rare != nil {
		if r, ok := e.rare.receipts.get(named{name: name}); ok {
			return r.sealed, nil
		}
	}
	return nil, store.ErrNotFound
}

// Receipts implements [store.Receipts]. Receipts that come or go during the
// iteration may or may not be seen.
func (l *Log) Receipts(ctx context.Context, key store.Key) iter.Seq2[*store.Receipt, error] {
	return l.receipts(ctx, key, store.DecodeReceipt)
}

// ReceiptHeads implements [store.Receipts].
func (l *Log) ReceiptHeads(ctx context.Context, key store.Key) iter.Seq2[*store.Receipt, error] {
	return l.receipts(ctx, key, store.DecodeReceiptHead)
}

func (l *Log) receipts(ctx context.Context, key store.Key, decode func(sealed []byte) (*store.Receipt, error)) iter.Seq2[*store.Receipt, error] {
	list := func() *ordered[named] {
		if e := l.find(key); e != nil && e.rare != nil {
			return &e.rare.receipts
		}
		return nil
	}
	return pages(ctx, l, list, func(n named) (*store.Receipt, error) {
		r, err := decode(n.sealed)
		if err != nil {
			return nil, fmt.Errorf("receipt %q of %v: %w", n.name, key, where(err, key, 0, 0))
		}
		return r, nil
	})
}

// owner returns the owner of a value, or store.ErrNotFound.
func (l *Log) owner(c store.Claim) (*store.Claimed, error) {
	if space := l.claims[c.Space]; space != nil {
		if n, ok := space.get(named{name: c.Value}); ok {
			return decodeClaimed(n)
		}
	}
	return nil, store.ErrNotFound
}

func decodeClaimed(n named) (*store.Claimed, error) {
	c, err := store.DecodeClaimed(n.sealed)
	if err != nil {
		return nil, fmt.Errorf("claim %q: %w", n.name, where(err, store.Key{}, 0, 0))
	}
	return c, nil
}

func (l *Log) putClaims(b *store.Batch, now time.Time) {
	for _, c := range b.Release {
		if held, err := l.owner(c); err == nil && held.Owner == b.Key {
			space := l.claims[c.Space]
			space.remove(named{name: c.Value})
			if space.length == 0 {
				delete(l.claims, c.Space)
			}
		}
	}
	for _, c := range b.Claim {
		if _, err := l.owner(c); err == nil {
			continue // the batch's entity holds it already; check made sure of that
		}
		space := l.claims[c.Space]
		if space == nil {
			space = &ordered[named]{compare: compareNamed}
			l.claims[strings.Clone(c.Space)] = space
		}
		sealed := store.AppendClaimed(nil, &store.Claimed{Claim: c, Owner: b.Key, Time: now})
		space.put(named{strings.Clone(c.Value), sealed})
	}
}

// Owner implements [store.Claims].
func (l *Log) Owner(ctx context.Context, c store.Claim) (store.Key, error) {
	unlock, err := l.begin(ctx)
	if err != nil {
		return store.Key{}, fmt.Errorf("owner of %q in %q: %w", c.Value, c.Space, err)
	}
	defer unlock()
	held, err := l.owner(c)
	if err != nil {
		return store.Key{}, fmt.Errorf("owner of %q in %q: %w", c.Value, c.Space, err)
	}
	return held.Owner, nil
}

// Claims implements [store.Claims]. Claims that come or go during the iteration
// may or may not be seen.
func (l *Log) Claims(ctx context.Context, space string) iter.Seq2[store.Claimed, error] {
	list := func() *ordered[named] { return l.claims[space] }
	return pages(ctx, l, list, func(n named) (store.Claimed, error) {
		c, err := decodeClaimed(n)
		if err != nil {
			return store.Claimed{}, err
		}
		return *c, nil
	})
}

// pages yields the records of a list, and takes the lock once per page. It calls list under
// the lock; list may return nil.
func pages[T any](ctx context.Context, l *Log, list func() *ordered[named], decode func(named) (T, error)) iter.Seq2[T, error] {
	above := func(last named, page []named) ([]named, error) {
		unlock, err := l.begin(ctx)
		if err != nil {
			return nil, err
		}
		defer unlock()
		if o := list(); o != nil {
			page = o.above(last, page)
		}
		return page, nil
	}
	return func(yield func(T, error) bool) {
		page := make([]named, 0, namesPerPage)
		var last named // no name is empty
		for {
			var err error
			if page, err = above(last, page[:0]); err != nil {
				var none T
				yield(none, fmt.Errorf("list: %w", err))
				return
			}
			for _, last = range page {
				v, err := decode(last)
				if !yield(v, err) || err != nil {
					return
				}
			}
			if len(page) < cap(page) {
				return
			}
		}
	}
}

// A checkpointKey identifies a checkpoint.
type checkpointKey struct {
	name      string
	partition int
}

func (l *Log) putCheckpoints(marks []store.Checkpoint, now time.Time) {
	for i := range marks {
		m := &marks[i]
		key := checkpointKey{m.Name, m.Position.Partition()}
		if m.Remove {
			delete(l.checkpoints, key)
			continue
		}
		m.Time = now
		key.name = strings.Clone(key.name)
		l.checkpoints[key] = store.AppendCheckpoint(nil, m)
	}
}

// noteDeletion moves the checkpoint that records through which position events of a kind are
// deleted.
func (l *Log) noteDeletion(kind string, through store.Position) error {
	m := store.Deletion{Kind: kind}.Mark()
	key := checkpointKey{m.Name, through.Partition()}
	if sealed, ok := l.checkpoints[key]; ok {
		old, err := store.DecodeCheckpoint(sealed)
		if err != nil {
			return fmt.Errorf("checkpoint %q: %w", key.name, err)
		}
		m = *old
	}
	d, _ := store.DeletionOf(m)
	m = d.After(through, l.now()).Mark()
	l.checkpoints[key] = store.AppendCheckpoint(nil, &m)
	return nil
}

// Checkpoints implements [store.Checkpoints].
func (l *Log) Checkpoints(ctx context.Context) ([]store.Checkpoint, error) {
	marks, err := l.allCheckpoints(ctx)
	marks, _ = store.SplitCheckpoints(marks)
	return marks, err
}

// Deleted implements [store.Pruner].
func (l *Log) Deleted(ctx context.Context) ([]store.Deletion, error) {
	marks, err := l.allCheckpoints(ctx)
	_, deletions := store.SplitCheckpoints(marks)
	return deletions, err
}

func (l *Log) allCheckpoints(ctx context.Context) ([]store.Checkpoint, error) {
	unlock, err := l.begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("checkpoints: %w", err)
	}
	defer unlock()
	marks := make([]store.Checkpoint, 0, len(l.checkpoints))
	for key, sealed := range l.checkpoints {
		m, err := store.DecodeCheckpoint(sealed)
		if err != nil {
			return nil, fmt.Errorf("checkpoint %q: %w", key.name, where(err, store.Key{}, 0, 0))
		}
		marks = append(marks, *m)
	}
	slices.SortFunc(marks, func(a, b store.Checkpoint) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Position.Partition(), b.Position.Partition()))
	})
	return marks, nil
}
