package pebble

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"

	"github.com/perdure/perdure/store"
)

// tables reads all tables, from the oldest to the newest.
func (s *salvage) tables() error {
	names, err := s.from.files.List(s.from.dir)
	if err != nil {
		return err
	}
	slices.Sort(names) // by number, which has at least six digits
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(len(a), len(b)) })
	o := s.from.options(s.from.files, nil)
	o.EnsureDefaults()
	for _, name := range names {
		switch filepath.Ext(name) {
		case ".sst":
			// guard turns a panic of Pebble on a damaged table into an error.
			if err := s.from.guard(func() error { return s.table(name, o.MakeReaderOptions()) }); err != nil {
				if !errors.Is(err, store.ErrCorrupt) && !pebble.IsCorruptionError(err) {
					return fmt.Errorf("read %s: %w", name, err)
				}
				s.missing(name, err)
			}
		case ".blob":
			s.missing(name, errors.New("no log has such a file"))
		}
	}
	return nil
}

// table reads a table, and continues after its damaged stretches.
func (s *salvage) table(name string, o sstable.ReaderOptions) error {
	f, err := s.from.files.Open(s.from.files.PathJoin(s.from.dir, name))
	if err != nil {
		return err
	}
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return damageOf(errors.Join(err, f.Close()))
	}
	r, err := sstable.NewReader(context.Background(), readable, o) // closes readable if it fails
	if err != nil {
		return damageOf(err)
	}
	return errors.Join(s.entries(name, r), r.Close())
}

// damageOf turns an error of a table into one that matches [store.ErrCorrupt], unless the
// operating system has refused to read the file.
func damageOf(err error) error {
	if _, isPath := errors.AsType[*os.PathError](err); isPath {
		return err
	}
	return &store.CorruptError{What: "table", Reason: err.Error()}
}

func (s *salvage) entries(name string, r *sstable.Reader) error {
	last := []byte{}
	for range stretchesMax {
		it, err := r.NewIter(sstable.NoTransforms, nil, nil, sstable.AssertNoBlobHandles)
		if err != nil {
			return damageOf(err)
		}
		var failed error // error of this package, not of the table
		for kv := it.SeekGE(last, 0); kv != nil; kv = it.Next() {
			v, _, err := kv.Value(nil)
			if err != nil {
				break
			}
			last = append(last[:0], kv.K.UserKey...)
			if failed = s.put(kv.K.UserKey, uint64(kv.SeqNum()), kv.Kind(), v); failed != nil {
				break
			}
		}
		if err = it.Close(); err == nil || failed != nil {
			return failed
		}
		s.missing(name, fmt.Errorf("behind key %q: %w", last, err))
		next := pass(last, []byte{0xff}, func(from []byte) ([]byte, bool) {
			it, err := r.NewIter(sstable.NoTransforms, nil, nil, sstable.AssertNoBlobHandles)
			if err != nil {
				return nil, false
			}
			var k []byte
			if kv := it.SeekGE(from, 0); kv != nil {
				k = bytes.Clone(kv.K.UserKey)
			}
			return k, it.Close() == nil
		})
		if next == nil {
			return nil
		}
		last = next
	}
	return fmt.Errorf("%w: more than %d damaged stretches", store.ErrCorrupt, stretchesMax)
}

// pass returns the first readable key above last and below end, or nil if there is none. The
// keys directly after last are damaged. probe returns the first key at or above its argument,
// or nil if there is none, and whether the read succeeded.
func pass(last, end []byte, probe func(from []byte) (k []byte, ok bool)) []byte {
	bad, found := bytes.Clone(last), []byte(nil)
	good := end
	for range probesMax {
		mid := between(bad, good)
		if mid == nil {
			break
		}
		k, ok := probe(mid)
		switch {
		case !ok:
			bad = mid
		case k == nil || bytes.Compare(k, end) >= 0:
			good = mid
		default:
			good, found = mid, k
		}
	}
	return found
}

// betweenBytes is the number of bytes by which between extends the longer of its keys.
const betweenBytes = 2

// between returns a key in the middle of two keys, or nil if they are neighbours.
func between(a, b []byte) []byte {
	n := max(len(a), len(b)) + betweenBytes
	whole := func(k []byte) *big.Int {
		return new(big.Int).SetBytes(append(bytes.Clone(k), make([]byte, n-len(k))...))
	}
	low, high := whole(a), whole(b)
	mid := new(big.Int).Add(low, high)
	mid.Rsh(mid, 1)
	if mid.Cmp(low) <= 0 || mid.Cmp(high) >= 0 {
		return nil
	}
	return bytes.TrimRight(mid.FillBytes(make([]byte, n)), "\x00")
}
