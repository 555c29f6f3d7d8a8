package crashtest

import (
	"testing"

	"github.com/perdure/perdure/store"
)

// A History is the commands and outcomes that clients wrote to their journals.
type History = history

// Work lets three clients commit in turn, until each has committed the given number of
// commands or one of them has got an error.
func Work(t testing.TB, log store.Log, commands int) *History {
	t.Helper()
	const clients = 3
	h := newHistory()
	all, err := newClients(t.Context(), log, 0, clients, 1)
	if err != nil {
		t.Fatalf("begin: %v", err)
	}
	for range commands {
		for _, c := range all {
			_, out, err := c.commit(t.Context(), log, &journal{lineWriter{t, h}})
			if err != nil {
				t.Fatalf("journal: %v", err)
			}
			if out.Error != "" {
				return h
			}
		}
	}
	return h
}

// A lineWriter adds the lines of a journal to a history.
type lineWriter struct {
	t testing.TB
	h *history
}

func (w lineWriter) Write(b []byte) (int, error) {
	l, err := parseLine(b[:len(b)-1])
	if err == nil {
		err = w.h.add(l)
	}
	return len(b), err
}

// Judge returns the faults that it finds in a log.
func (h *history) Judge(t testing.TB, log store.Log) []string {
	t.Helper()
	return judgeLog(t.Context(), log, h)
}

// Forget removes the outcomes of the last commands, as if they were in flight.
func (h *history) Forget(commands int) {
	for _, e := range h.entries[len(h.entries)-commands:] {
		e.out = nil
	}
}
