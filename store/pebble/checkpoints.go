package pebble

import (
	"bytes"
	"context"
	"fmt"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// Checkpoints implements [store.Checkpoints].
func (l *Log) Checkpoints(ctx context.Context) ([]store.Checkpoint, error) {
	readers, _, err := storecore.Checkpoints(records(ctx, l, "checkpoints", []byte{byte(bucketCheckpoint)}, decodeCheckpoint))
	return readers, err
}

// Deleted implements [store.Pruner]. It reads only the checkpoints of deletions.
func (l *Log) Deleted(ctx context.Context) ([]store.Deletion, error) {
	prefix := append([]byte{byte(bucketCheckpoint)}, store.DeletionPrefix...)
	_, deletions, err := storecore.Checkpoints(records(ctx, l, "deletions", prefix, decodeCheckpoint))
	return deletions, err
}

func decodeCheckpoint(k, record []byte) (*store.Checkpoint, error) {
	b, err := store.DecodeCheckpoint(record)
	if err == nil && !bytes.Equal(checkpointKey(b.Name, b.Position.Partition()), k) {
		err = corruptKey(k, fmt.Sprintf("found %q at %v in its place", b.Name, b.Position))
	}
	return b, err
}
