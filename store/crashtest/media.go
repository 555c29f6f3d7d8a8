package crashtest

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
)

const (
	// mediaFills is the number of times that the log is opened and filled, so that Pebble
	// writes tables.
	mediaFills = 3
	// controlOdds is the ratio: one log in controlOdds is not damaged.
	controlOdds = 8
	// mediaBytesMax bounds the memory that one step allocates for a log of less than a MiB.
	// A step that trusts a length which damage has made huge allocates more.
	mediaBytesMax = 1 << 30
	// mediaMax bounds the time of one case. It only ends a step that hangs.
	mediaMax = 5 * time.Minute
)

// A Medium describes how [Media] opens a store whose files it damages. All functions take
// the place of a log, as [Subject.Open] does.
type Medium struct {
	// ReadOnly opens a log for reading, Salvage opens one that cannot be opened
	// otherwise.
	ReadOnly, Salvage func(place string) (store.Log, error)
	// OpenBackup opens for reading the backup at the path.
	OpenBackup func(path string) (store.Log, error)
	// Empty returns a new, empty log of any store, with the same number of partitions as
	// the subject. Media copies damaged logs to it.
	Empty func() store.Log
}

// Media fills a log and damages copies of its files as failing media do: bits that flip,
// sectors and pages that are zero, random, or exchanged, and files that have lost their
// end. It opens, verifies, copies, backs up, salvages and writes to each copy. No step may
// panic, hang, or allocate without a bound. A log that is reported as undamaged must hold
// all stored records. Each event that is read must be one that was stored. A log without
// damage must never be reported as damaged. The flag -crash.media sets the number of
// copies. Media measures the memory that the whole process allocates, so no other test may
// run beside it.
func Media(t testing.TB, s Subject, m Medium) {
	t.Helper()
	k, s := prepare(t, s)
	whole := s.place(t)
	for life := range mediaFills {
		fill(t, k, &s, whole, life)
	}
	c := &mediaCase{ctx: t.Context(), s: &s, m: &m, events: map[uint64]bool{}}
	log, err := m.ReadOnly(whole)
	if err != nil {
		t.Fatalf("open the whole log: %v", err)
	}
	if c.want, err = admin.NewDigest(c.ctx, log, nil); err == nil {
		err = c.eachRecord(log, func(sort store.RecordKind, sum uint64) error {
			if sort == store.KindEvent {
				c.events[sum] = true
			}
			return nil
		})
	}
	if err = errors.Join(err, log.Close()); err != nil {
		t.Fatalf("read the whole log: %v", err)
	}
	files := filesOf(t, whole)
	place := filepath.Join(tempDir(t), "damaged")
	count := map[string]int{}
	for n := range s.Medias {
		random := rand.New(rand.NewPCG(k.seed, uint64(n)))
		if err := errors.Join(os.RemoveAll(place), copyFiles(place, whole)); err != nil {
			t.Fatalf("copy the log: %v", err)
		}
		what := "no damage"
		c.control = n%controlOdds == controlOdds-1
		if !c.control {
			what = wear(t, &s, place, files, random)
		}
		c.place, c.found, c.verdict = place, nil, "refused"
		done := make(chan error, 1)
		go func() {
			defer func() {
				if p := recover(); p != nil {
					stack := make([]byte, 8<<10)
					done <- fmt.Errorf("panic: %v\n%s", p, stack[:runtime.Stack(stack, false)])
				}
			}()
			c.run()
			done <- nil
		}()
		limit := time.NewTimer(mediaMax)
		select {
		case err = <-done:
		case <-limit.C:
			t.Fatalf("log %d (%s): waited %v for this step: %s", n, what, mediaMax, *c.step.Load())
		}
		limit.Stop()
		if err != nil {
			t.Fatalf("log %d (%s): %s: %v", n, what, *c.step.Load(), err)
		}
		for _, f := range c.found {
			t.Errorf("log %d (%s): %s", n, what, f)
		}
		if t.Failed() {
			return
		}
		count[c.verdict]++
	}
	t.Logf("%d logs: %v", s.Medias, count)
	if count["damaged"]+count["refused"] < s.Medias/10 {
		t.Errorf("logs that were called damaged: got %v of %d, want more, or the wrong bytes are damaged", count, s.Medias)
	}
}

// wear damages the files of a log and returns a description of the damage.
func wear(t testing.TB, s *Subject, place string, files []rotFile, random *rand.Rand) (what string) {
	t.Helper()
	for range 1 + random.IntN(3) {
		f := files[random.IntN(len(files))]
		path := filepath.Join(place, f.name)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatalf("damage: %v", err)
		}
		used := int(min(f.used, int64(len(b))))
		if used == 0 {
			continue // an earlier damage has cut off the whole file
		}
		size := []int{512, 4096}[random.IntN(2)]
		at := random.IntN(used) / size * size
		piece := b[at:min(at+size, len(b))]
		how := ""
		switch random.IntN(6) {
		case 0, 1:
			n := 1 + random.IntN(8)
			for range n {
				at := random.IntN(used)
				if s.Blind == nil || !s.Blind(f.name, int64(at)) {
					b[at] ^= 1 << random.IntN(8)
				}
			}
			how = fmt.Sprintf("%d bits flipped", n)
		case 2:
			clear(piece)
			how = fmt.Sprintf("%d bytes at %d zero", size, at)
		case 3:
			for i := range piece {
				piece[i] = byte(random.Uint32())
			}
			how = fmt.Sprintf("%d bytes at %d random", size, at)
		case 4:
			other := random.IntN(used) / size * size
			for i := range min(len(piece), len(b)-other) {
				piece[i], b[other+i] = b[other+i], piece[i]
			}
			how = fmt.Sprintf("%d bytes at %d and %d exchanged", size, at, other)
		case 5:
			b = b[:random.IntN(used)]
			how = fmt.Sprintf("cut off at %d", len(b))
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatalf("damage: %v", err)
		}
		what += fmt.Sprintf("%s: %s; ", f.name, how)
	}
	return what
}

// A mediaCase is a damaged log during its checks.
type mediaCase struct {
	ctx    context.Context // context of the test
	s      *Subject
	m      *Medium
	want   *admin.Digest
	events map[uint64]bool // sums of all stored events
	step   atomic.Pointer[string]

	place   string
	control bool // the log is not damaged
	found   []string
	verdict string
}

func (c *mediaCase) faultf(format string, args ...any) {
	c.found = append(c.found, *c.step.Load()+": "+fmt.Sprintf(format, args...))
}

// begin begins a step. End checks the memory that the step has allocated.
func (c *mediaCase) begin(step string) (end func()) {
	c.step.Store(&step)
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	return func() {
		var after runtime.MemStats
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > mediaBytesMax {
			c.faultf("it allocates %d bytes", n)
		}
	}
}

// expected reports whether the error is nil or one with which a step on a damaged log may
// end. It records other errors as faults.
func (c *mediaCase) expected(err error) bool {
	if err == nil {
		return true
	}
	if c.control {
		c.faultf("got %v, of a log without damage", err)
		return false
	}
	for _, is := range []error{store.ErrCorrupt, store.ErrFormat, store.ErrBroken} {
		if errors.Is(err, is) {
			return true
		}
	}
	c.faultf("got %v, want an error that matches %v", err, store.ErrCorrupt)
	return false
}

func (c *mediaCase) run() {
	c.look("open for reading", c.m.ReadOnly, true)
	c.look("salvage", c.m.Salvage, false)
	c.write()
}

// open opens a log. It returns nil if that fails.
func (c *mediaCase) open(how string, open func(string) (store.Log, error)) store.Log {
	end := c.begin(how)
	log, err := open(c.place)
	end()
	c.expected(err)
	if err != nil {
		return nil
	}
	return log
}

func (c *mediaCase) close(log store.Log) {
	end := c.begin("close")
	_ = log.Close() // a log that has found damage may report it again
	end()
}

// look opens a log, verifies it and copies it.
func (c *mediaCase) look(how string, open func(string) (store.Log, error), backup bool) {
	log := c.open(how, open)
	if log == nil {
		return
	}
	defer c.close(log)
	end := c.begin(how + ", verify")
	report, err := admin.Verify(c.ctx, log, admin.VerifyOptions{})
	end()
	if c.expected(err) && err == nil {
		err = report.Err()
		c.expected(err)
	}
	if t, ok := log.(admin.FaultTeller); ok && err == nil {
		err = errors.Join(t.Faults()...)
		c.expected(err)
	}
	if backup {
		c.verdict = "damaged"
		if err == nil {
			c.verdict = "whole"
		}
	}
	if err == nil {
		c.wantAll(log)
	}
	c.copy(how+", copy", log)
	if backup {
		c.backup(how+", backup", log)
	}
}

// wantAll demands that a log that is reported as undamaged holds all stored records.
func (c *mediaCase) wantAll(log store.Log) {
	got, err := admin.NewDigest(c.ctx, log, nil)
	switch {
	case err != nil:
		c.faultf("it is called whole, and cannot be read: %v", err)
	case got.Total != c.want.Total:
		c.faultf("it is called whole, and differs from what was stored: %s", c.want.Difference(got))
	}
}

// copy copies a log to another store.
func (c *mediaCase) copy(how string, log store.Log) {
	end := c.begin(how)
	to := c.m.Empty()
	report, err := admin.Copy(c.ctx, log, to, nil)
	end()
	if !c.expected(err) || err != nil {
		return
	}
	c.expected(report.Err())
	verified, err := admin.Verify(c.ctx, to, admin.VerifyOptions{})
	if err != nil {
		c.faultf("the copy cannot be verified: %v", err)
		return
	}
	t, ok := log.(admin.FaultTeller)
	told := ok && len(t.Faults()) > 0 // the log says that more may be missing than it knows
	if report.Err() == nil || !told && verified.Err() == nil && report.Damaged+report.Skipped == 0 {
		c.wantAll(to)
	}
	if report.Damaged > 0 && verified.Err() == nil {
		c.faultf("the copy is called whole, and %d of its records are damaged", report.Damaged)
	}
	err = c.eachRecord(to, func(sort store.RecordKind, sum uint64) error {
		if sort == store.KindEvent && !c.events[sum] { // other records may be of an earlier time
			return errors.New("it has an event that was never stored")
		}
		return nil
	})
	if err != nil {
		c.faultf("read the copy: %v", err)
	}
}

// backup makes a backup of a log, and reads it.
func (c *mediaCase) backup(how string, log store.Log) {
	path := filepath.Join(filepath.Dir(c.place), "backup")
	if err := os.RemoveAll(path); err != nil {
		c.faultf("%v", err)
	}
	end := c.begin(how)
	err := admin.Backup(c.ctx, log, path, admin.BackupOptions{})
	end()
	if !c.expected(err) || err != nil {
		return
	}
	b, err := c.m.OpenBackup(path)
	if err != nil {
		c.faultf("the backup cannot be opened: %v", err)
		return
	}
	c.wantAll(b)
	if err := b.Close(); err != nil {
		c.faultf("close the backup: %v", err)
	}
}

// write opens the log for writing, commits an event to it, and reads the event.
func (c *mediaCase) write() {
	log := c.open("open for writing", c.s.Open)
	if log == nil {
		return
	}
	defer c.close(log)
	end := c.begin("commit")
	defer end()
	key := store.Key{Kind: "written to a damaged log", ID: "1"}
	b := &store.Batch{Key: key, Events: []store.Event{{ID: store.ID{1}, Type: "t", Payload: []byte("payload")}}}
	results, err := log.Commit(c.ctx, []*store.Batch{b})
	if err == nil {
		err = results[0].Err
	}
	if !c.expected(err) || err != nil {
		return
	}
	n := 0
	for _, err := range log.Read(c.ctx, key, 0) {
		if c.expected(err) && err == nil {
			n++
		}
	}
	if n != 1 {
		c.faultf("the event that was committed is read %d times", n)
	}
}

// eachRecord calls fn with the sum of each readable record.
func (c *mediaCase) eachRecord(log store.Log, fn func(store.RecordKind, uint64) error) (failure error) {
	x, err := log.Export(c.ctx)
	if err != nil {
		return err
	}
	defer func() { failure = errors.Join(failure, x.Close()) }()
	var buf []byte
	for _, sort := range store.RecordKinds() {
		for r, err := range x.Records(c.ctx, sort) {
			if errors.Is(err, store.ErrCorrupt) {
				continue
			}
			if err != nil {
				return err
			}
			buf = store.AppendRecord(append(buf[:0], byte(sort)), r)
			h := fnv.New64a()
			_, _ = h.Write(buf) // writing to a hash does not fail
			if err := fn(sort, h.Sum64()); err != nil {
				return err
			}
		}
	}
	return nil
}
