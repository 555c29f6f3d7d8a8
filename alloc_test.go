package perdure_test

import (
	"testing"

	"github.com/perdure/perdure/internal/scribble"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
)

// The allocations of one Do on the memory store, with a rule that persists one event:
//
//  1. the event, by the rule
//  2. the slice of events for Persist, by the rule's call
//  3. the Decision
//  4. the context of the rule, which the rule may keep, so it is not reused
//  5. the encoded event, payload and record in one, which readers of the log may keep
//  6. the results of the commit, by the store
//
// An Ask makes one more allocation, and those inside the state, for the caller's copy. Calls,
// batches and their events are pooled. The store's own memory grows in chunks, which is a small
// part of an allocation for each command.
const (
	doAllocationsMax  = 7
	askAllocationsMax = 8
)

//nolint:paralleltest // other goroutines would be counted too
func TestCommandAllocatesLittle(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates as well")
	}
	if scribble.On {
		t.Skip("what is spoilt is copied before")
	}
	ctx := t.Context()
	kind := accounts()
	ref := kind.Ref(open(t, newLog(t), kind), "1")
	command := &testv1.Deposit{Amount: 5}
	do := testing.AllocsPerRun(1000, func() {
		if _, err := ref.Do(ctx, command); err != nil {
			t.Fatal(err)
		}
	})
	ask := testing.AllocsPerRun(1000, func() {
		if _, err := ref.Ask(ctx, command); err != nil {
			t.Fatal(err)
		}
	})
	if do > doAllocationsMax || ask > askAllocationsMax {
		t.Errorf("got %v allocations for Do and %v for Ask, want at most %d and %d", do, ask, doAllocationsMax, askAllocationsMax)
	}
}
