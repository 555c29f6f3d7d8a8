package crashtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/perdure/perdure/store/crashtest/faultfs"
)

const (
	// stepsOfScript is the number of commands that one run under a fault commits.
	stepsOfScript = 6
	// operationsMax bounds the operations that are made to fail.
	operationsMax = 20_000
)

// IO makes one file operation fail in each run: the first, the second, and so on, until a
// run does not reach it. The faults are an I/O error, a full disk, a short write and a lack
// of file descriptors. A sync that fails loses the data that it was to write, as on Linux.
// A client that gets an error tries one more commit, reopens the log, reads the outcome of
// its command, and continues. The power is cut at the end.
//
// The process must not die. An error must not say "not stored" of a command that is found
// stored. After a failed sync the log must report that it is broken (an error matching
// [store.ErrBroken]) and must not sync the same file again as if nothing had happened.
// Commands that were acknowledged, or read as stored, must be there after the power cut.
//
// It needs /dev/fuse and root, and is skipped without them. If the variable CI is set and
// both are there, a mount that fails is a failure of the test.
func IO(t testing.TB, s Subject) {
	t.Helper()
	k, s := prepare(t, s)
	if s.Place != nil {
		t.Skipf("%s does not keep its files in a directory", s.Name)
	}
	m, shown, dir := mountFaults(t, k)
	r := &ioRun{TB: t, k: k, s: &s, m: m, shown: shown, dir: dir}
	if r.run(nil, false) {
		return
	}
	ops := m.Disk.Ops()
	at, reached := 0, 0
	for ; at < operationsMax; at++ {
		op := faultfs.OpWrite
		if at < len(ops) {
			op = ops[at]
		}
		faults := faultfs.Faults(op)
		if s.Stride > 1 && op != faultfs.OpSync {
			if at%s.Stride != 0 {
				continue
			}
			faults = faults[at/s.Stride%len(faults):][:1]
		}
		missed := 0
		for _, f := range faults {
			f.At = at
			// After a failed sync the run is repeated without further commits: the outcome
			// that was read right after reopening must stay, too.
			if r.run(&f, false) || op == faultfs.OpSync && r.run(&f, true) {
				return
			}
			if m.Disk.Failed() == "" {
				missed++
			}
		}
		reached += len(faults) - missed
		if at >= len(ops) && missed == len(faults) {
			break
		}
	}
	t.Logf("%d faults, at up to %d operations", reached, at)
	if reached < len(ops)/(2*s.Stride) {
		t.Errorf("faults that were met: got %d in runs of %d operations, want more, or nothing is tested", reached, len(ops))
	}
}

// An ioRun runs a script under faults.
type ioRun struct {
	testing.TB
	k          *kit
	s          *Subject
	m          *faultfs.Mount
	shown, dir string
	runs       int
}

// run runs one script under a fault, and reports whether it found something wrong.
func (r *ioRun) run(f *faultfs.Fault, rest bool) (wrong bool) {
	r.Helper()
	r.runs++
	sub := fmt.Sprint("run-", r.runs)
	if err := os.Mkdir(filepath.Join(r.shown, sub), 0o700); err != nil {
		r.Fatalf("make a directory: %v", err)
	}
	h := newHistory()
	disk := r.m.Disk
	disk.Arm(f)
	failure := r.child(h, sub, rest)
	if f == nil && (failure != "" || h.failures() > 0) {
		r.Fatalf("a run without a fault fails: %s", failure)
	}
	when := "a run without a fault"
	if f != nil {
		when = fmt.Sprintf("%v (%s)", f, disk.Failed())
	}
	var faults []string
	for _, file := range disk.Retried() {
		faults = append(faults, fmt.Sprintf("%s is synced again after a sync that has failed", filepath.Base(file)))
	}
	if disk.Failed() == faultfs.OpSync {
		faults = append(faults, h.trusting()...)
	}
	if err := disk.Cut(); err != nil {
		r.Fatalf("%s: %v", when, err)
	}
	place := filepath.Join(r.shown, sub)
	faults = append(faults, judgeAt(r.Context(), r.s, place, h)...)
	return report(r, when, faults)
}

// child runs the script in a process. It returns the reason why the script could not
// continue, or "".
func (r *ioRun) child(h *history, sub string, rest bool) string {
	r.Helper()
	p, err := r.k.start(&orders{
		Mode: "script", Subject: r.s.Name, Place: filepath.Join(r.dir, sub), Clients: 1, Seed: r.k.seed, Steps: stepsOfScript, Rest: rest,
	})
	if err != nil {
		r.Fatalf("%v", err)
	}
	failure, err := p.drain(h)
	if err := errors.Join(err, p.wait()); err != nil {
		r.Errorf("the process dies of %v", err)
	}
	return failure
}

// failures returns the number of commands that have failed or are open.
func (h *history) failures() int { return len(h.entries) - h.acknowledged() }

// trusting describes each error that left the outcome of a command open and after which the
// same log accepted another commit.
func (h *history) trusting() []string {
	var wrong []string
	for i, e := range h.entries {
		if e.out == nil || e.out.Error == "" || e.out.NotStored || i+1 == len(h.entries) {
			continue
		}
		if next := h.entries[i+1]; next.Life == e.Life && (next.out == nil || !next.out.Broken) {
			wrong = append(wrong, fmt.Sprintf("after %q the next commit is not refused as broken", e.out.Error))
		}
	}
	return wrong
}

// mountFaults mounts a file system whose operations can be made to fail.
func mountFaults(t testing.TB, k *kit) (m *faultfs.Mount, shown, dir string) {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		missing(t, false, "there is no FUSE: %v", err)
	}
	home := newHome(t, k)
	shown, dir = filepath.Join(home, "shown"), filepath.Join(home, "faults")
	if err := errors.Join(os.Mkdir(shown, 0o700), os.Mkdir(dir, 0o700)); err != nil {
		t.Fatalf("make a directory: %v", err)
	}
	m, err := faultfs.New(dir, shown)
	if err != nil {
		missing(t, inCI() && os.Geteuid() == 0, "%v", err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return m, shown, dir
}
