package projection

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/perdure/perdure/store"
)

// A Plain is what the rules of a projection get whose read model has no
// transactions: files, a search engine, another service. See [AtLeastOnce].
type Plain[H any] struct {
	// Handle is what the rules write to.
	Handle H

	source noteSource
	read   map[string][]byte // what notes were when they were read first
	write  map[string][]byte // what they are to become
}

// noteSource reads notes in transactions of its own.
type noteSource interface {
	note(ctx context.Context, key string) ([]byte, error)
	notes(ctx context.Context, prefix string) ([]Note, error)
}

// AtLeastOnce returns a target whose rules write to handle, while its notes are
// kept by another target. The notes are stored after the rules have returned, so
// every event is handled at least once: after a failure or a crash in between, a
// whole batch is handled again, or a part of it by another runner. Rules must
// write what an event makes of things (set, replace, delete by the key of the
// entity, or remember its position) and not add to them; then the read model is
// right once all is handled.
func AtLeastOnce[Tx, H any](notes Target[Tx], handle H) Target[*Plain[H]] {
	return &plainTarget[Tx, H]{target: notes, handle: handle}
}

type plainTarget[Tx, H any] struct {
	target Target[Tx]
	handle H
}

func (p *plainTarget[Tx, H]) begin() *Plain[H] {
	return &Plain[H]{Handle: p.handle, source: p, read: map[string][]byte{}, write: map[string][]byte{}}
}

// Update implements [Target]: it runs do, then stores the notes, if those that do
// has read are still what they were.
func (p *plainTarget[Tx, H]) Update(ctx context.Context, do func(*Plain[H]) error) error {
	b := p.begin()
	if err := do(b); err != nil {
		return fmt.Errorf("handle: %w", err)
	}
	return p.target.Update(ctx, func(tx Tx) error {
		for _, k := range slices.Sorted(maps.Keys(b.read)) {
			v, err := p.target.Note(ctx, tx, k)
			if err != nil {
				return err
			}
			if !bytes.Equal(v, b.read[k]) {
				return fmt.Errorf("%w: note %s has changed meanwhile", store.ErrNotStored, k)
			}
		}
		for _, k := range slices.Sorted(maps.Keys(b.write)) {
			if err := p.target.SetNote(ctx, tx, k, b.write[k]); err != nil {
				return err
			}
		}
		return nil
	})
}

// Volatile implements [Volatile]: without the notes all is handled again.
func (p *plainTarget[Tx, H]) Volatile() bool {
	v, ok := p.target.(Volatile)
	return ok && v.Volatile()
}

// Blame implements [Classifier] by the target of the notes.
func (p *plainTarget[Tx, H]) Blame(err error) Blame {
	if c, ok := p.target.(Classifier); ok {
		return c.Blame(err)
	}
	return BlameUnknown
}

// View implements [Target]. Its notes are read one by one.
func (p *plainTarget[Tx, H]) View(_ context.Context, do func(*Plain[H]) error) error {
	return do(p.begin())
}

// Note implements [Target].
func (p *plainTarget[Tx, H]) Note(ctx context.Context, b *Plain[H], key string) ([]byte, error) {
	if v, ok := b.write[key]; ok {
		return bytes.Clone(v), nil
	}
	v, err := b.source.note(ctx, key)
	if err != nil {
		return nil, err
	}
	if _, ok := b.read[key]; !ok {
		b.read[key] = bytes.Clone(v)
	}
	return v, nil
}

// SetNote implements [Target].
func (p *plainTarget[Tx, H]) SetNote(_ context.Context, b *Plain[H], key string, value []byte) error {
	b.write[key] = bytes.Clone(value)
	return nil
}

// Notes implements [Target].
func (p *plainTarget[Tx, H]) Notes(ctx context.Context, b *Plain[H], prefix string) iter.Seq2[Note, error] {
	return func(yield func(Note, error) bool) {
		list, err := b.source.notes(ctx, prefix)
		if err != nil {
			yield(Note{}, err)
			return
		}
		all := map[string][]byte{}
		for _, n := range list {
			all[n.Key] = n.Value
		}
		for k, v := range b.write {
			if delete(all, k); v != nil && strings.HasPrefix(k, prefix) {
				all[k] = v
			}
		}
		for _, k := range slices.Sorted(maps.Keys(all)) {
			if !yield(Note{Key: k, Value: all[k]}, nil) {
				return
			}
		}
	}
}

func (p *plainTarget[Tx, H]) note(ctx context.Context, key string) (v []byte, err error) {
	err = p.target.View(ctx, func(tx Tx) error {
		v, err = p.target.Note(ctx, tx, key)
		return err
	})
	return v, err
}

func (p *plainTarget[Tx, H]) notes(ctx context.Context, prefix string) (list []Note, err error) {
	err = p.target.View(ctx, func(tx Tx) error {
		list = nil
		for n, err := range p.target.Notes(ctx, tx, prefix) {
			if err != nil {
				return err
			}
			n.Value = bytes.Clone(n.Value)
			list = append(list, n)
		}
		return nil
	})
	return list, err
}
