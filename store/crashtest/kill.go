package crashtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/perdure/perdure/store"
)

const (
	// clientsInLife is the number of clients that commit at the same time.
	clientsInLife = 6
	// livesOfLog is the number of processes that work on one log before the test makes a
	// new one. New logs are needed to kill processes while they create one.
	livesOfLog = 8
	// linesMax bounds the lines of the journal after which a process is killed.
	linesMax = 90
)

// Kill runs clients in a process and kills it at a random time, again and again. After each
// kill it opens the log and checks its contents. It finds torn batches and records that the
// process itself loses. It says nothing about the disk: data that a process has written
// survives its death without any sync; see [Power] for that.
func Kill(t testing.TB, s Subject) {
	t.Helper()
	k, s := prepare(t, s)
	random := rand.New(rand.NewPCG(k.seed, 1))
	var place string
	var h *history
	acked := 0
	for cycle := range s.Kills {
		life := cycle % livesOfLog
		if life == 0 {
			acked += count(h)
			place, h = s.place(t), newHistory()
		}
		p := k.launch(t, &orders{Mode: "load", Subject: s.Name, Place: place, Life: life, Clients: clientsInLife, Seed: random.Uint64()})
		err := p.run(h, random)
		p.kill()
		failure, err2 := p.drain(h)
		if err := errors.Join(err, err2, p.wait()); err != nil {
			t.Fatalf("kill %d: %v", cycle, err)
		}
		if failure != "" {
			t.Fatalf("kill %d: the process says %q before it is killed", cycle, failure)
		}
		if report(t, fmt.Sprintf("kill %d of %s", cycle, place), judgeAt(t.Context(), &s, place, h)) {
			return
		}
	}
	acked += count(h)
	t.Logf("%d kills, %d commands acknowledged", s.Kills, acked)
	if acked < s.Kills {
		t.Errorf("commands acknowledged in %d lives: got %d, want more, or nothing is tested", s.Kills, acked)
	}
}

func count(h *history) int {
	if h == nil {
		return 0
	}
	return h.acknowledged()
}

// run reads a random number of lines of the journal.
func (p *process) run(h *history, random *rand.Rand) error {
	limit := time.AfterFunc(waitMax, p.kill)
	defer limit.Stop()
	for n := random.IntN(linesMax); n > 0; n-- {
		l, err := p.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if l.Failure != "" {
			return fmt.Errorf("the process says %q before it is cut off", l.Failure)
		}
		if err := h.add(l); err != nil {
			return err
		}
	}
	return nil
}

// judgeAt opens the log at a place and returns the faults that it finds.
func judgeAt(ctx context.Context, s *Subject, place string, h *history) []string {
	h.crashed()
	if s.Quiet != nil {
		if err := s.Quiet(ctx, place); err != nil {
			return []string{fmt.Sprintf("wait for the server: %v", err)}
		}
	}
	log, err := s.Open(place)
	if err != nil {
		return []string{fmt.Sprintf("open: %v", err)}
	}
	wrong := judgeLog(ctx, log, h)
	if err := log.Close(); err != nil {
		wrong = append(wrong, fmt.Sprintf("close: %v", err))
	}
	return wrong
}

// judgeLog returns the faults that it finds in an open log.
func judgeLog(ctx context.Context, log store.Log, h *history) []string {
	m, wrong, err := readImage(ctx, log, h.keys())
	if err != nil {
		return append(wrong, err.Error())
	}
	return append(wrong, h.judge(m)...)
}

// report reports faults as errors of t, and returns whether there were any.
func report(t testing.TB, when string, wrong []string) bool {
	t.Helper()
	for _, w := range wrong {
		t.Errorf("%s: %s", when, w)
	}
	return len(wrong) > 0
}
