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

// An External is the transaction of a read model that has no transactions of its own: files, a
// search engine, another service. See [NewExternalTarget].
type External[H any] struct {
	// Handle is the object that the rules write to.
	Handle H

	source noteSource
	read   map[string][]byte // the values of notes when they were read first
	write  map[string][]byte // the values to store
}

// noteSource reads notes, each call in a transaction of its own.
type noteSource interface {
	note(ctx context.Context, key string) ([]byte, error)
	notes(ctx context.Context, prefix string) ([]Note, error)
}

// NewExternalTarget returns a target whose rules write to handle, while another target keeps its
// notes. The notes are stored after the rules have returned, so every event is handled at least
// once: after a failure or a crash in between, the same runner handles the whole batch again, or
// another runner handles a part of it. So rules must be idempotent: set, replace or delete a value
// by the key of the entity, or remember the position of the event, but never add to a value. Then
// the read model is right once all events are handled.
func NewExternalTarget[Tx, H any](notes Target[Tx], handle H) Target[*External[H]] {
	return &plainTarget[Tx, H]{target: notes, handle: handle}
}

type plainTarget[Tx, H any] struct {
	target Target[Tx]
	handle H
}

func (p *plainTarget[Tx, H]) begin() *External[H] {
	return &External[H]{Handle: p.handle, source: p, read: map[string][]byte{}, write: map[string][]byte{}}
}

// Update implements [Target]: it runs do, then stores the notes if the notes that do has read are
// unchanged.
func (p *plainTarget[Tx, H]) Update(ctx context.Context, do func(*External[H]) error) error {
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
				return fmt.Errorf("%w: note %s has changed during the transaction", store.ErrNotStored, k)
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

// Volatile implements [Volatile]: if the notes end with the process, all events are handled
// again.
func (p *plainTarget[Tx, H]) Volatile() bool {
	v, ok := p.target.(Volatile)
	return ok && v.Volatile()
}

// Blame implements [Classifier] by asking the target of the notes.
func (p *plainTarget[Tx, H]) Blame(err error) Blame {
	if c, ok := p.target.(Classifier); ok {
		return c.Blame(err)
	}
	return BlameUnknown
}

// View implements [Target]. Each note is read in a transaction of its own.
func (p *plainTarget[Tx, H]) View(_ context.Context, do func(*External[H]) error) error {
	return do(p.begin())
}

// Note implements [Target].
func (p *plainTarget[Tx, H]) Note(ctx context.Context, b *External[H], key string) ([]byte, error) {
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
func (p *plainTarget[Tx, H]) SetNote(_ context.Context, b *External[H], key string, value []byte) error {
	b.write[key] = bytes.Clone(value)
	return nil
}

// Notes implements [Target].
func (p *plainTarget[Tx, H]) Notes(ctx context.Context, b *External[H], prefix string) iter.Seq2[Note, error] {
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
