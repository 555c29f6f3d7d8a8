package bbolt

import (
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/perdure/perdure/store"
)

// Place returns where a record is kept, and where its sealed form begins in the value.
func Place(record any) (bucket string, key []byte, from int) {
	switch r := record.(type) {
	case *store.Event:
		return bucketLog.String(), be64(uint64(r.Position)), 0
	case *store.State:
		s := (*Log)(nil).stream(r.Key)
		if r.Position == 0 {
			return bucketState.String(), s.prefix, crcBytes
		}
		return bucketSnapshot.String(), s.at(r.Version), crcBytes
	case *store.Message:
		return bucketMessage.String(), be64(r.Sequence), crcBytes
	case *store.Receipt:
		return bucketReceipt.String(), append(appendEntity(nil, r.Entity), r.Name...), crcBytes
	case *store.Claimed:
		return bucketClaim.String(), appendPair(nil, r.Claim.Space, r.Claim.Value), crcBytes
	case *store.Bookmark:
		return bucketBookmark.String(), bookmarkKey(r.Name, r.Position.Partition()), crcBytes
	}
	panic(fmt.Sprintf("a %T is no record", record))
}

// PutInfo writes what the file says about itself.
func PutInfo(tx *bolt.Tx, info store.LogInfo) error {
	return bucketMeta.open(tx).Put(metaInfo, store.AppendLogInfo(appendKeySum(nil, metaInfo), &info))
}

// IndexKey returns the key of an event in bucket index.
func IndexKey(key store.Key, version store.Version) []byte {
	return (*Log)(nil).stream(key).at(version)
}

// CloseFile closes the file under the log, so that the next write fails.
func (l *Log) CloseFile() error { return l.file.Close() }

// Hold keeps commits from beginning until release is called.
func (l *Log) Hold() (release func()) {
	l.writing.Lock()
	return l.writing.Unlock
}

// Waiting returns how many calls of Commit wait for their turn.
func (l *Log) Waiting() int {
	l.queue.mu.Lock()
	defer l.queue.mu.Unlock()
	return len(l.queue.waiting)
}

// Transactions returns the id of the last transaction.
func (l *Log) Transactions() int64 { return l.durable.Load() }

// Led says whether a caller leads the others.
func (l *Log) Led() bool {
	l.queue.mu.Lock()
	defer l.queue.mu.Unlock()
	return l.queue.led
}

// Unsettle makes the last transaction look as if it were not durable yet, until
// settle is called.
func (l *Log) Unsettle() (settle func()) {
	txid := l.durable.Add(-1) + 1
	return func() { l.settle(int(txid)) }
}

// Break breaks the log as a failed sync does.
func (l *Log) Break() { l.breakDown(errors.New("sync failed")) }

// PositionKey returns the key of an event in bucket log.
func PositionKey(p store.Position) []byte { return be64(uint64(p)) }
