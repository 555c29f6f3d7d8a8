package postgres

import (
	"context"
	"fmt"

	"github.com/perdure/perdure/store"
)

// Checkpoints implements [store.Checkpoints].
func (l *Log) Checkpoints(ctx context.Context) ([]store.Checkpoint, error) {
	all, err := l.readCheckpoints(ctx, l.statements.checkpoints)
	all, _ = store.SplitCheckpoints(all)
	return all, err
}

// Deleted implements [store.Pruner]. It reads only the checkpoints of deletions.
func (l *Log) Deleted(ctx context.Context) ([]store.Deletion, error) {
	all, err := l.readCheckpoints(ctx, l.statements.deletions)
	_, deletions := store.SplitCheckpoints(all)
	return deletions, err
}

func (l *Log) readCheckpoints(ctx context.Context, sql string) ([]store.Checkpoint, error) {
	all := []store.Checkpoint{}
	err := l.byName(ctx, sql, nil, func(name string, record []byte) error {
		b, err := store.DecodeCheckpoint(record)
		if err == nil && b.Name != name {
			err = &store.CorruptError{What: "checkpoint", Reason: fmt.Sprintf("found %q in its place", b.Name)}
		}
		if err != nil {
			return located(err, "bookmarks", fmt.Sprintf("name %q", name))
		}
		all = append(all, *b)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("checkpoints: %w", err)
	}
	return all, nil
}
