package projection_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
)

// A memo is a read model of tests: numbers by name, and notes.
type memo struct {
	rows  map[string]int
	notes map[string][]byte
}

// A target keeps a memo. It runs one transaction at a time, and fails if a test says so.
type target struct {
	mu   sync.Mutex
	memo memo
	// before and after are errors for the next Updates, before or after they are stored.
	before, after []error
	down          error // the error of all calls
	torn          bool  // an Update that fails after it is stored has stored only its notes
	updates       int
}

func newTarget() *target {
	return &target{memo: memo{rows: map[string]int{}, notes: map[string][]byte{}}}
}

func (t *target) Update(ctx context.Context, do func(*memo) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", store.ErrNotStored, err)
	}
	if t.down != nil {
		return fmt.Errorf("%w: %w", store.ErrNotStored, t.down)
	}
	t.updates++
	next := memo{rows: maps.Clone(t.memo.rows), notes: maps.Clone(t.memo.notes)}
	if err := do(&next); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if len(t.before) > 0 {
		err := t.before[0]
		if t.before = t.before[1:]; err != nil {
			return err
		}
	}
	if len(t.after) > 0 && t.torn {
		next.rows = t.memo.rows
	}
	t.memo = next
	if len(t.after) > 0 {
		err := t.after[0]
		t.after = t.after[1:]
		return err
	}
	return nil
}

func (t *target) View(ctx context.Context, do func(*memo) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := errors.Join(ctx.Err(), t.down); err != nil {
		return err
	}
	return do(&t.memo)
}

func (t *target) Note(_ context.Context, m *memo, key string) ([]byte, error) {
	return bytes.Clone(m.notes[key]), nil
}

func (t *target) SetNote(_ context.Context, m *memo, key string, value []byte) error {
	if value == nil {
		delete(m.notes, key)
	} else {
		m.notes[key] = bytes.Clone(value)
	}
	return nil
}

func (t *target) Notes(_ context.Context, m *memo, prefix string) iter.Seq2[projection.Note, error] {
	return func(yield func(projection.Note, error) bool) {
		for _, k := range slices.Sorted(maps.Keys(m.notes)) {
			if strings.HasPrefix(k, prefix) && !yield(projection.Note{Key: k, Value: m.notes[k]}, nil) {
				return
			}
		}
	}
}

// row returns a number.
func (t *target) row(name string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.memo.rows[name]
}

// set changes the target between transactions.
func (t *target) set(fn func(*target)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fn(t)
}
