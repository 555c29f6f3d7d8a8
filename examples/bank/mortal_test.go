package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// A fate decides when the processes of a test die. A step is a commit, before it is stored
// and after it, or the writing of a letter; so a process can die in every gap.
type fate struct {
	dieAt []int // numbers of the steps at which a process dies
	apart bool  // a mutant: the commit of the target does not remove the message

	mu    sync.Mutex
	steps int
	life  int
	dead  bool
	death chan struct{} // closed when the running process dies
}

var errDead = errors.New("the process is dead")

// begin starts the life of the next process.
func (f *fate) begin() (life int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.life++
	f.dead, f.death = false, make(chan struct{})
	return f.life
}

// step returns an error if the process dies at this step, or is dead.
func (f *fate) step(life int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead || f.life != life {
		return errDead
	}
	if f.steps++; slices.Contains(f.dieAt, f.steps) {
		f.dead = true
		close(f.death)
		return errDead
	}
	return nil
}

func (f *fate) died() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dead
}

// A mortalLog is the log as one process sees it. Its stored records survive the process.
type mortalLog struct {
	*memory.Log
	fate *fate
	life int
}

func (l *mortalLog) Synchronous() bool { return false }

func (l *mortalLog) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	if err := l.fate.step(l.life); err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrNotStored, err)
	}
	results, err := l.commit(ctx, group)
	if err := l.fate.step(l.life); err != nil {
		return nil, err
	}
	return results, err
}

func (l *mortalLog) commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	if !l.fate.apart {
		return l.Log.Commit(ctx, group)
	}
	var first, second []*store.Batch
	for _, b := range group {
		one := *b
		if !b.Key.IsZero() && len(b.Settle) > 0 {
			one.Settle = nil
			second = append(second, &store.Batch{Settle: b.Settle})
		}
		first = append(first, &one)
	}
	results, err := l.Log.Commit(ctx, first)
	if err != nil || len(second) == 0 {
		return results, err
	}
	if err := l.fate.step(l.life); err != nil {
		return nil, err
	}
	_, err = l.Log.Commit(ctx, second)
	return results, err
}
