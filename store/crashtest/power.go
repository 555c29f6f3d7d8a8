package crashtest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// Power runs clients in a process, on a file system of its own that loses the
// power at a random moment, again and again: whatever was not synced is gone.
// After each cut the file system is mounted anew and the log is opened and
// judged. Every third time the process is killed first and the log is opened and
// read before the power goes, because what was read as stored must stay.
//
// It needs root, mkfs.ext4, loop devices, and Linux, and is skipped elsewhere. It
// fails instead where the variable CI is set, root runs it, and a program is missing.
// If there is mkfs.xfs, a third of the cuts is done on XFS.
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

// How the power is cut.
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
		// What is told from now on may be told after the power has gone, when no
		// machine would run any more. And ext4 can answer a sync that meets the
		// shutdown as if it had been done.
		h.deaf = true
		stop(v.shutdown())
		p.kill()
	case cutRead:
		p.kill()
	}
	_, err := p.drain(h) // without power the process may say so
	stop(err)
	if err := p.wait(); err != nil && how == cutRead {
		stop(err)
	}
	if how == cutRead {
		h.crashed()
		log, err := s.Open(place)
		stop(err)
		if report(t, when+", before it", judgeLog(t.Context(), log, h)) {
			_ = log.Close() // what is wrong is told
			return true
		}
		stop(v.shutdown())
		_ = log.Close() // without power it may fail
	}
	stop(v.remount())
	return report(t, when+howNames[how], judgeAt(t.Context(), s, place, h))
}

// makeDurableDir makes a directory that outlives the power.
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
