package pebble

import (
	"bytes"
	"context"
	"fmt"

	"github.com/perdure/perdure/store"
)

// Checkpoints implements [store.Checkpoints].
func (l *Log) Checkpoints(ctx context.Context) ([]store.Checkpoint, error) {
	all := []store.Checkpoint{}
	for b, err := range records(ctx, l, "checkpoints", []byte{byte(bucketCheckpoint)}, decodeCheckpoint) {
		if err != nil {
			return nil, err
		}
		all = append(all, *b)
	}
	all, _ = store.SplitCheckpoints(all)
	return all, nil
}

// Deleted implements [store.Pruner]. It reads only the checkpoints of deletions.
func (l *Log) Deleted(ctx context.Context) ([]store.Deletion, error) {
	var all []store.Deletion
	prefix := append([]byte{byte(bucketCheckpoint)}, store.DeletionPrefix...)
	for b, err := range records(ctx, l, "deletions", prefix, decodeCheckpoint) {
		if err != nil {
			return nil, err
		}
		d, _ := store.DeletionOf(*b)
		all = append(all, d)
	}
	return all, nil
}

func decodeCheckpoint(k, record []byte) (*store.Checkpoint, error) {
	b, err := store.DecodeCheckpoint(record)
	if err == nil && !bytes.Equal(checkpointKey(b.Name, b.Position.Partition()), k) {
		err = corruptKey(k, fmt.Sprintf("found %q at %v in its place", b.Name, b.Position))
	}
	return b, err
}
