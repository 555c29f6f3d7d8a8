package pebble

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

const (
	// salvageBatchBytes is the size of a batch that a salvage writes at once.
	salvageBatchBytes = 4 << 20
	// salvageFaultsMax bounds the faults that a salvage keeps. It only counts further ones.
	salvageFaultsMax = 1000
	// stretchesMax bounds the damaged stretches that a salvage skips in one table.
	stretchesMax = 1000
	// probesMax bounds the reads of a table that look for the end of a damaged stretch.
	probesMax = 100
)

// A salvage reads a broken log. It writes all readable entries of the directory to a new
// directory, which is then opened.
//
//  1. If Pebble can open the directory, the salvage reads the entries through it and skips
//     the unreadable ones. Otherwise it reads all existing tables and write-ahead logs one by
//     one, even those that Pebble would not use. From a write-ahead log it takes only commits
//     that no table holds, by the number of each commit, because Pebble keeps logs for a
//     while after it has finished with them.
//  2. The salvage writes each entry to the new directory, preceded by its number in Pebble's
//     order, unless the directory has an entry of the key with a higher number. So memory is
//     bounded for a log of any size. A last pass removes the numbers.
//  3. It computes the description and the counters of the log from the entries.
//
// A crash can leave behind a table that Pebble had already replaced. It may bring back
// entries that were deleted or replaced shortly before. The faults therefore say that the
// tables were read one by one.
type salvage struct {
	*salvaged
	from  *Log // the broken log; only its files are used
	db    *pebble.DB
	batch *pebble.Batch
	// flushed is the number of the last commit that the tables hold. Entries of this or an
	// earlier commit in a write-ahead log may have been deleted since.
	flushed uint64
}

// openSalvaged salvages the log at path and opens the copy.
func openSalvaged(path string, c *config) (l *Log, failure error) {
	from := &Log{path: path, config: c, fs: &gateFS{FS: c.files, readOnly: true}, down: make(chan struct{})}
	from.writer.log = from
	info, err := c.files.Stat(path)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%w: not a directory", store.ErrFormat)
	}
	if err == nil {
		from.dir, err = canonical(c.files, path)
	}
	if err == nil {
		err = from.looksSalvageable()
	}
	if err == nil {
		err = from.takeLock()
	}
	if err != nil {
		return nil, err
	}
	scratch, err := os.MkdirTemp("", "perdure-salvage-*")
	if err != nil {
		return nil, errors.Join(err, from.fs.unlock())
	}
	s := &salvage{salvaged: &salvaged{scratch: scratch}, from: from}
	err = errors.Join(s.run(), from.fs.unlock())
	if err == nil {
		in := option(func(made *config) {
			made.salvaged, made.partitions, made.partitionsSet = s.salvaged, c.partitions, c.partitionsSet
		})
		l, err = Open(s.dir(), ReadOnly(), WithCacheBytes(c.cacheBytes), WithLogger(c.logger), in)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(scratch))
	}
	return l, nil
}

// looksSalvageable returns an error if the directory contains no file of a log.
func (l *Log) looksSalvageable() error {
	names, err := l.files.List(l.dir)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(names, ofPebble) {
		return fmt.Errorf("%w: the directory has no file of a log", store.ErrFormat)
	}
	m, err := readDescriptor(l.files, l.dir)
	switch {
	case errors.Is(err, store.ErrFormat):
		return err
	case err == nil && m != nil && m.state == stateCreating:
		return fmt.Errorf("%w: its creation has not ended", store.ErrFormat)
	}
	return nil // damage is reported later
}

func (s *salvage) dir() string { return filepath.Join(s.scratch, "log") }

func (s *salvage) run() (failure error) {
	m, err := readDescriptor(s.from.fs, s.from.dir)
	switch {
	case err != nil && !errors.Is(err, store.ErrCorrupt):
		return err
	case err != nil || m == nil:
		m = nil
		err = cmp.Or(err, errors.New("it is missing"))
		s.fault(descriptorFile, err)
		s.tail = fmt.Sprintf("nothing tells how far the log had come: %s: %v", descriptorFile, err)
	default:
		if err := m.check(s.from.fs, s.from.dir); errors.Is(err, store.ErrCorrupt) {
			s.missing(manifestPrefix, err)
		} else if err != nil {
			return err
		}
	}
	made := &Log{path: s.dir(), dir: s.dir(), fs: &gateFS{FS: vfs.Default}, down: make(chan struct{})}
	c := *s.from.config
	c.files, c.walDir, c.readOnly = vfs.Default, "", false
	made.config = &c
	cache := pebble.NewCache(c.cacheBytes)
	defer cache.Unref()
	if s.db, err = pebble.Open(made.dir, made.options(vfs.Default, cache)); err != nil {
		return fmt.Errorf("make %s: %w", made.dir, err)
	}
	s.batch = s.db.NewIndexedBatch()
	err = s.fill()
	if err == nil {
		err = s.flush(0)
	}
	if err == nil {
		err = s.complete(m, made)
	}
	return errors.Join(err, s.batch.Close(), s.db.Close())
}

// fill writes all readable entries to the new directory.
func (s *salvage) fill() error {
	err := s.from.openDB()
	if err == nil {
		err = s.from.advance()
		if err == nil {
			err = s.throughPebble()
		}
		return errors.Join(err, s.from.closeAll())
	}
	if !errors.Is(err, store.ErrCorrupt) {
		return err
	}
	s.missing("log", fmt.Errorf("pebble cannot open it, so its tables and write-ahead logs were read by themselves: %w", err))
	if err := s.tables(); err != nil {
		return err
	}
	if err := s.findFlushed(); err != nil {
		return err
	}
	if err := s.logs(); err != nil {
		return err
	}
	return s.strip()
}

// flush writes the batch if it has at least the given number of bytes.
func (s *salvage) flush(bytes int) error {
	if s.batch.Len() < bytes || s.batch.Empty() {
		return nil
	}
	if err := s.batch.Commit(pebble.NoSync); err != nil {
		return err
	}
	s.batch.Reset()
	return nil
}

// throughPebble copies the entries of a log that Pebble can open.
func (s *salvage) throughPebble() error {
	ctx := context.Background()
	m, err := s.from.readView(ctx)
	if err != nil {
		return err
	}
	m.entries(ctx, []byte{0}, []byte{0xff}, func(k, v []byte, failure error) bool {
		switch {
		case errors.Is(failure, store.ErrCorrupt):
			s.missing("tables", failure)
		case failure != nil:
			err = failure
		default:
			if err = s.batch.Set(k, v, nil); err == nil {
				err = s.flush(salvageBatchBytes)
			}
		}
		return err == nil
	})
	return errors.Join(err, m.Close())
}

// put stores an entry unless a later one with the same key exists. It also stores deletions,
// until strip removes them.
func (s *salvage) put(k []byte, number uint64, kind pebble.InternalKeyKind, v []byte) error {
	deleted := byte(0)
	switch kind {
	case pebble.InternalKeyKindSet, pebble.InternalKeyKindSetWithDelete:
	case pebble.InternalKeyKindDelete, pebble.InternalKeyKindDeleteSized, pebble.InternalKeyKindSingleDelete:
		deleted, v = 1, nil
	default:
		s.fault("entry", fmt.Errorf("an entry of kind %v, which no log has", kind))
		return nil
	}
	there, closer, err := s.batch.Get(k)
	if err == nil {
		later := binary.BigEndian.Uint64(there) > number
		if bytes.Equal(k, countersKey) {
			later = laterCounters(there[9:], v)
		}
		if err := closer.Close(); err != nil || later {
			return err
		}
	} else if !errors.Is(err, pebble.ErrNotFound) {
		return err
	}
	value := append(binary.BigEndian.AppendUint64(make([]byte, 0, 9+len(v)), number), deleted)
	if err := s.batch.Set(k, append(value, v...), nil); err != nil {
		return err
	}
	return s.flush(salvageBatchBytes)
}

// countersKey is the key of the log's counters, which every commit writes.
var countersKey = appendKey(nil, bucketMeta, metaCounters)

// findFlushed finds the last commit that the tables hold.
func (s *salvage) findFlushed() error {
	v, closer, err := s.batch.Get(countersKey)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var c counters
	if c.read(v[9:]) == nil {
		s.flushed = c.commits
	}
	return closer.Close()
}

// laterCounters reports whether the counters in a belong to a later commit than those in
// than.
func laterCounters(a, than []byte) bool {
	var c, d counters
	return c.read(a) == nil && (d.read(than) != nil || c.commits > d.commits)
}

// strip removes the numbers from the entries, and removes deleted entries.
func (s *salvage) strip() error {
	if err := s.flush(0); err != nil {
		return err
	}
	return iterate(s.db, nil, nil, func(c *pebble.Iterator) error {
		for ok := c.First(); ok; ok = c.Next() {
			v, err := c.ValueAndErr()
			switch {
			case err != nil:
			case v[8] == 1:
				err = s.batch.Delete(c.Key(), nil)
			default:
				err = s.batch.Set(c.Key(), v[9:], nil)
			}
			if err == nil {
				err = s.flush(salvageBatchBytes)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// complete writes the description and the counters of the log, computed from the entries, and
// the descriptor.
func (s *salvage) complete(m *logDescriptor, made *Log) error {
	info, err := readInfo(s.db)
	if err != nil {
		if !errors.Is(err, store.ErrCorrupt) {
			return err
		}
		s.fault("info", err)
		switch c := s.from.config; {
		case m != nil:
			info = &m.info
		case c.partitionsSet:
			info = &store.LogInfo{ID: store.ID{6: 0x70, 15: 1}, Format: formatVersion, Partitions: c.partitions, Created: time.Unix(0, c.now().UnixNano()).UTC()}
		default:
			return fmt.Errorf("%w; nothing tells how many partitions the log had: say so with WithPartitions, or partitions= in a URI", err)
		}
	}
	made.info = *info
	var says counters
	saysErr := says.load(s.db)
	if saysErr != nil {
		if !errors.Is(saysErr, store.ErrCorrupt) {
			return saysErr
		}
		s.missing("counters", saysErr)
	}
	if m != nil && saysErr == nil && says.commits < m.commits {
		s.missing("log", fmt.Errorf("it has %d commits, and had %d: commits that were acknowledged are lost", says.commits, m.commits))
	}
	has := counters{commits: says.commits, pruned: says.pruned, sequence: says.sequence}
	heads := make([]uint64, info.Partitions)
	if err := s.count(&has, heads); err != nil {
		return err
	}
	if saysErr == nil && (m == nil || says.commits >= m.commits) {
		s.proven = map[store.RecordKind]bool{
			store.KindEvent:   says.events == has.events,
			store.KindState:   says.snapshots == has.snapshots,
			store.KindMessage: says.pending == has.pending && says.parked == has.parked && says.sequence == has.sequence,
		}
	}
	b := s.batch
	k := appendKey(nil, bucketMeta, metaInfo)
	err = b.Set(k, store.AppendLogInfo(storecore.AppendKeySum(nil, k), info), nil)
	for p, h := range heads {
		if err == nil && h > 0 {
			err = b.Set(headKey(p), storecore.AppendNumber(nil, headKey(p), h), nil)
		}
	}
	if err == nil {
		err = b.Set(appendKey(nil, bucketMeta, metaCounters), has.append(nil), nil)
	}
	if err == nil {
		err = b.Commit(pebble.Sync)
	}
	if err != nil {
		return err
	}
	b.Reset()
	return writeDescriptor(made.fs, made.dir, &logDescriptor{info: *info, state: stateReady, commits: has.commits})
}
