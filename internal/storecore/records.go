package storecore

import (
	"context"
	"fmt"
	"iter"

	"github.com/perdure/perdure/store"
)

// Records yields the decoded records of a listing, page by page. The function fill copies the next
// records into the page and reports whether more follow; user code runs after it has returned. The
// result of decode must not share memory with its arguments. The argument what names the records
// in errors, and locate adds the place of the log to an error of decode.
func Records[T any](
	ctx context.Context, what string, fill func(*Page) (more bool, err error),
	decode func(k, record []byte) (T, error), locate func(error) error,
) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		p := NewPage()
		defer p.Release()
		for more := true; more; {
			var err error
			if more, err = fill(p); err != nil {
				yield(zero, fmt.Errorf("read %s: %w", what, err))
				return
			}
			for _, r := range p.Rows {
				value, err := decode(p.Key(r), p.Value(r))
				if err == nil {
					err = ctx.Err()
				}
				if err != nil {
					yield(zero, fmt.Errorf("read %s: %w", what, locate(err)))
					return
				}
				if !yield(value, nil) {
					return
				}
			}
		}
	}
}

// Owner returns the results of [store.Claims.Owner]. The entry of the value is owned, or nil if
// the value is free; err is the error of reading it.
func Owner(c store.Claim, owned *store.Claimed, err error) (store.Key, error) {
	if err == nil && owned == nil {
		err = store.ErrNotFound
	}
	if err != nil {
		return store.Key{}, fmt.Errorf("owner of %q in %q: %w", c.Value, c.Space, err)
	}
	return owned.Owner, nil
}

// Checkpoints divides all checkpoints of a log into those of readers and the deletions, like
// [store.SplitCheckpoints].
func Checkpoints(all iter.Seq2[*store.Checkpoint, error]) (readers []store.Checkpoint, deletions []store.Deletion, err error) {
	list := []store.Checkpoint{}
	for c, err := range all {
		if err != nil {
			return nil, nil, err
		}
		list = append(list, *c)
	}
	readers, deletions = store.SplitCheckpoints(list)
	return readers, deletions, nil
}
