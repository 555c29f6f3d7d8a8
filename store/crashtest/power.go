package crashtest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// Power runs clients in a process on a file system of its own and cuts the file system's
// power at a random time, again and again: data that was not synced is lost. After each cut
// it remounts the file system, opens the log and checks its contents. About every third
// time it kills the process first, and opens and reads the log before it cuts the power,
// because a command that was read as stored must stay.
//
// It needs root, mkfs.ext4, loop devices and Linux, and is skipped without them. It fails
// instead if the variable CI is set, root runs it, and a program is missing. If mkfs.xfs is
// installed, a third of the cuts is done on XFS.
func Power(t testing.TB, s Subject) {
	t.Helper()
	k, s := prepare(t, s)
	if s.Place != nil {
		t.Skipf("%s does not keep its files in a directory", s.Name)
	}
	systems := fileSystems(t)
	for i, fs := range systems {
		cuts := s.Powers / 3
		if i == 0 {
			cuts = s.Powers - (len(systems)-1)*cuts
		}
		powerOn(t, k, &s, fs, cuts)
	}
}

// The ways to cut the power.
const (
	cutStopped = iota // the process is stopped, then the power goes
	cutRunning        // the power goes under load
	cutRead           // the process is killed, the log is read, then the power goes
	cutsCount
)

var howNames = [cutsCount]string{" of a process that stands still", " under load", " after a look"}

func powerOn(t testing.TB, k *kit, s *Subject, fs string, cuts int) {
	t.Helper()
	v := newVolume(t, k, fs)
	random := rand.New(rand.NewPCG(k.seed, 2))
	var place string
	var h *history
	acked := 0
	for cycle := range cuts {
		when := fmt.Sprintf("power cut %d on %s", cycle, fs)
		life := cycle % livesOfLog
		if life == 0 {
			acked += count(h)
			if place != "" {
				if err := os.RemoveAll(place); err != nil {
					t.Fatalf("%s: %v", when, err)
				}
			}
			place, h = filepath.Join(v.dir, fmt.Sprint("log-", cycle)), newHistory()
			if err := makeDurableDir(place); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
		}
		p := k.launch(t, &orders{Mode: "load", Subject: s.Name, Place: place, Life: life, Clients: clientsInLife, Seed: random.Uint64()})
		if err := p.run(h, random); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if cutPower(t, s, v, p, h, place, random.IntN(cutsCount), when) {
			return
		}
	}
	acked += count(h)
	t.Logf("%d power cuts on %s, %d commands acknowledged", cuts, fs, acked)
	if acked < cuts {
		t.Errorf("commands acknowledged in %d lives on %s: got %d, want more, or nothing is tested", cuts, fs, acked)
	}
}

// cutPower cuts the power, and reports whether something is wrong after it.
func cutPower(t testing.TB, s *Subject, v *volume, p *process, h *history, place string, how int, when string) bool {
	t.Helper()
	stop := func(err error) {
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
	}
	switch how {
	case cutStopped:
		stop(p.stop())
		stop(v.shutdown())
		p.kill()
	case cutRunning:
		// The process may write outcomes after the power is gone, when a real machine would
		// not run any more. Besides, ext4 can report success for a sync that meets the
		// shutdown. So outcomes do not count from here on.
		h.deaf = true
		stop(v.shutdown())
		p.kill()
	case cutRead:
		p.kill()
	}
	_, err := p.drain(h) // without power the process may report a failure
	stop(err)
	if err := p.wait(); err != nil && how == cutRead {
		stop(err)
	}
	if how == cutRead {
		h.crashed()
		log, err := s.Open(place)
		stop(err)
		if report(t, when+", before it", judgeLog(t.Context(), log, h)) {
			_ = log.Close() // the faults are reported already
			return true
		}
		stop(v.shutdown())
		_ = log.Close() // without power it may fail
	}
	stop(v.remount())
	return report(t, when+howNames[how], judgeAt(t.Context(), s, place, h))
}

// makeDurableDir makes a directory that survives a power cut.
func makeDurableDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	parent, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer func() { _ = parent.Close() }() // nothing was written to it
	return parent.Sync()
}
