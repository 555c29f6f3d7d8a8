package pebble

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/batchrepr"
	"github.com/cockroachdb/pebble/v2/wal"

	"github.com/perdure/perdure/store"
)

// logs reads the write-ahead logs. Commits after damage in a log are lost.
func (s *salvage) logs() error {
	from := s.from
	found, err := wal.Scan(wal.Dir{FS: from.files, Dirname: from.walPath()})
	if errors.Is(err, os.ErrNotExist) {
		s.missing(from.walPath(), err)
		return nil
	}
	if err != nil {
		return err
	}
	for _, l := range found {
		if err := from.guard(func() error { return s.wal(l) }); err != nil {
			if !errors.Is(err, store.ErrCorrupt) && !pebble.IsCorruptionError(err) {
				return fmt.Errorf("read %v: %w", l, err)
			}
			s.missing(l.String(), err)
		}
	}
	return nil
}

func (s *salvage) wal(l wal.LogicalLog) (failure error) {
	r := l.OpenForRead()
	defer func() { failure = errors.Join(failure, r.Close()) }()
	for {
		record, at, err := r.NextRecord()
		var repr []byte
		if err == nil {
			repr, err = io.ReadAll(record)
		}
		if errors.Is(err, io.EOF) && repr == nil {
			return nil
		}
		if err != nil {
			return damageOf(fmt.Errorf("at %v: %w", at, err))
		}
		if err := s.commit(repr); err != nil {
			return err
		}
	}
}

// commit stores the entries of one batch of a write-ahead log.
func (s *salvage) commit(repr []byte) error {
	h, ok := batchrepr.ReadHeader(repr)
	if !ok {
		return &store.CorruptError{What: "batch", Reason: fmt.Sprintf("it has %d bytes", len(repr))}
	}
	if done, err := s.isFlushed(repr); done || err != nil {
		return err
	}
	number := uint64(h.SeqNum)
	for r := batchrepr.Read(repr); len(r) > 0; number++ {
		kind, k, v, ok, err := r.Next()
		switch {
		case err != nil:
			return damageOf(err)
		case !ok:
			return nil
		case kind == pebble.InternalKeyKindLogData:
			number-- // log data has no number
			continue
		}
		if err := s.put(k, number, kind, v); err != nil {
			return err
		}
	}
	return nil
}

// isFlushed reports whether the tables already hold a batch of a write-ahead log.
func (s *salvage) isFlushed(repr []byte) (bool, error) {
	for r := batchrepr.Read(repr); len(r) > 0; {
		_, k, v, ok, err := r.Next()
		switch {
		case err != nil:
			return false, damageOf(err)
		case !ok:
			return false, nil
		case bytes.Equal(k, countersKey):
			var c counters
			return c.read(v) == nil && c.commits <= s.flushed, nil
		}
	}
	return false, nil
}
