package bbolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// Checkpoints implements [store.Checkpoints].
func (l *Log) Checkpoints(ctx context.Context) ([]store.Checkpoint, error) {
	readers, _, err := storecore.Checkpoints(records(ctx, l, bucketCheckpoint, nil, decodeCheckpoint))
	return readers, err
}

// Deleted implements [store.Pruner]. It reads the checkpoints of deletions only.
func (l *Log) Deleted(ctx context.Context) ([]store.Deletion, error) {
	_, deletions, err := storecore.Checkpoints(records(ctx, l, bucketCheckpoint, []byte(store.DeletionPrefix), decodeCheckpoint))
	return deletions, err
}

func decodeCheckpoint(k, record []byte) (*store.Checkpoint, error) {
	b, err := store.DecodeCheckpoint(record)
	if err == nil && !bytes.Equal(checkpointKey(b.Name, b.Position.Partition()), k) {
		err = bucketCheckpoint.corrupt(k, fmt.Sprintf("found %q at %v in its place", b.Name, b.Position))
	}
	return b, err
}

func checkpointKey(name string, partition int) []byte {
	return binary.BigEndian.AppendUint16(storecore.AppendPair(nil, name, ""), uint16(partition))
}
