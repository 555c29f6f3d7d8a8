package pebble

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/batchrepr"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/wal"

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

// A salvaged describes a log that was salvaged.
type salvaged struct {
	scratch string // directory to remove
	faults  []error
	more    int // number of faults that are not in faults
	// unsure says why records of any sort may be missing, or is empty.
	unsure string
	// tail says why the last commits may be missing, or is empty.
	tail string
	// proven holds the sorts of which no record is missing, according to the log's counters.
	proven map[store.RecordKind]bool
}

func (s *salvaged) fault(where string, err error) {
	if len(s.faults) >= salvageFaultsMax {
		s.more++
		return
	}
	s.faults = append(s.faults, &store.CorruptError{What: "file", Where: where, Reason: err.Error()})
}

// missing records a fault, and that records may be missing because of it.
func (s *salvaged) missing(where string, err error) {
	s.fault(where, err)
	s.unsure = cmp.Or(s.unsure, fmt.Sprintf("%s: %v", where, err))
}

// told returns all faults.
func (s *salvaged) told() []error {
	if s.more == 0 {
		return s.faults
	}
	return append(slices.Clip(s.faults), &store.CorruptError{What: "file", Reason: fmt.Sprintf("there are %d more faults", s.more)})
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
		l, err = Open(s.dir(), ReadOnly(), WithCache(c.cacheBytes), WithLogger(c.logger), in)
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

// ---- what the log says about itself

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

// count counts the entries, and finds the last positions of the partitions and the last
// message sequence.
func (s *salvage) count(has *counters, heads []uint64) error {
	if err := s.flush(0); err != nil {
		return err
	}
	reached := func(p store.Position) {
		if p.Partition() < len(heads) {
			heads[p.Partition()] = max(heads[p.Partition()], p.Sequence())
		}
	}
	var d recordDecoder
	var last store.Key
	messages := uint64(0)
	err := iterate(s.db, nil, nil, func(c *pebble.Iterator) error {
		for ok := c.First(); ok; ok = c.Next() {
			k := c.Key()
			v, err := c.ValueAndErr()
			if err != nil {
				return err
			}
			switch bucket(k[0]) {
			case bucketMeta:
				name := k[1:]
				if n, reason := storecore.Number(k, v); bytes.HasPrefix(name, metaHead) && len(name) == len(metaHead)+2 && reason == "" {
					if p := int(binary.BigEndian.Uint16(name[len(metaHead):])); p < len(heads) && n <= store.LastPosition(0).Sequence() {
						reached(store.NewPosition(p, n))
					}
				}
			case bucketLog:
				if len(k) == 1+8 {
					_ = events(positionOf(k), v, func(_ store.Position, sealed []byte) bool {
						has.events++
						if d.Event(sealed, &d.event) == nil {
							reached(d.event.Position)
						}
						return true
					})
				}
			case bucketEntity:
				key, part, _, ok := splitEntity(k)
				if !ok {
					continue
				}
				if key != last {
					has.entities++
					last = key
				}
				if part < partEvent {
					has.snapshots++
				} else if part == partEvent && d.Event(v, &d.event) == nil {
					reached(d.event.Position)
				}
			case bucketMessage:
				if len(k) == 1+8 {
					messages++
					if _, reason := storecore.Sealed(k, v); reason == "" {
						has.sequence = max(has.sequence, binary.BigEndian.Uint64(k[1:]))
					}
				}
			case bucketDue:
				has.pending++
			case bucketParked:
				has.parked++
			}
		}
		return nil
	})
	if has.pending+has.parked != messages {
		has.pending = messages - min(messages, has.parked) // an import makes the lists again
	}
	return err
}

// ---- reading

// missed yields an error if records of a sort may be missing.
func (s *salvaged) missed(sort store.RecordKind, yield func(store.Record, error) bool) bool {
	if s == nil {
		return true
	}
	reason := s.unsure
	if s.proven[sort] {
		reason = ""
	}
	if sort == store.KindClaim { // report tail once, in a sort that no reader needs completely
		reason = cmp.Or(reason, s.tail)
	}
	return reason == "" || yield(nil, &store.CorruptError{What: sort.String(), Reason: "some may be missing: " + reason})
}
