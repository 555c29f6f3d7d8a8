package projection

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
	"github.com/perdure/perdure/store"
)

// NotesKind is the kind of the entities in which [InLog] keeps its notes.
const NotesKind = "perdure.notes"

const (
	// notesTriesMax bounds the runs of one transaction. It runs again when another program has
	// changed the notes.
	notesTriesMax = 32
	// notesWaitMax bounds the time of one transaction. A transaction goes on after the context of
	// the runner has ended, so that the work of the handlers is noted when the runner is stopped.
	notesWaitMax = 10 * time.Second
)

// A logNotes is a target that keeps only notes, in a log. The notes of a projection are the state
// of one entity. A transaction reads the state and stores the next version of it. If another
// program has stored that version first, the transaction runs again on the stored state.
type logNotes struct {
	log store.Log

	turn  chan struct{} // held by an Update
	known sync.Map      // projection name to *notesState, as it was stored last
}

// A notesState is one version of the state. It never changes.
type notesState struct {
	version store.Version
	notes   map[string][]byte
}

// A notesTx is a transaction on the notes of one projection. Its first key names the projection.
type notesTx struct {
	target  *logNotes
	writes  bool
	guessed bool // the state comes from the cache, and may be out of date
	fresh   bool // the state must be read from the log

	name  string
	state *notesState // nil until a key was named
	write map[string][]byte
}

// projectionOf returns the name of the projection in a key or prefix.
func projectionOf(key string) string {
	rest, _ := strings.CutPrefix(key, notesPrefix)
	name, _, _ := strings.Cut(rest, "/")
	return name
}

// isSegmentKey reports whether a key names the note of a segment.
func isSegmentKey(key string) bool {
	return strings.HasPrefix(key, notesPrefix) && strings.Contains(key, "/lane/")
}

// open reads the state of the projection that a key names.
func (x *notesTx) open(ctx context.Context, key string) error {
	name := projectionOf(key)
	switch {
	case x.state != nil && x.name == name:
		return nil
	case x.state != nil:
		return fmt.Errorf("%w: notes of projections %q and %q in one transaction", store.ErrInvalid, x.name, name)
	}
	if known, ok := x.target.known.Load(name); ok && x.writes && !x.fresh {
		x.name, x.state, x.guessed = name, known.(*notesState), true
		return nil
	}
	s, err := x.target.load(ctx, name)
	if err != nil {
		return err
	}
	x.name, x.state = name, s
	return nil
}

func notesKey(name string) store.Key { return store.Key{Kind: NotesKind, ID: name} }

// load reads the state from the log.
func (t *logNotes) load(ctx context.Context, name string) (*notesState, error) {
	var list perdurev1.ProjectionNotes
	s := &notesState{notes: make(map[string][]byte)}
	var bad error
	for _, err := range t.log.Load(ctx, notesKey(name), func(st *store.State) bool {
		s.version = st.Version
		switch {
		case st.Type != string(list.ProtoReflect().Descriptor().FullName()):
			bad = &store.CorruptError{What: "notes", Key: st.Key, Version: st.Version, Reason: "its state is a " + st.Type}
		default:
			if err := proto.Unmarshal(st.Payload, &list); err != nil {
				bad = &store.CorruptError{What: "notes", Key: st.Key, Version: st.Version, Reason: err.Error()}
			}
		}
		return true
	}) {
		if err != nil {
			return nil, fmt.Errorf("read notes of %q: %w", name, err)
		}
	}
	if bad != nil {
		return nil, bad
	}
	for _, n := range list.GetNotes() {
		s.notes[n.GetKey()] = n.GetValue()
	}
	return s, nil
}

// lasting returns a context that ends notesWaitMax from now, even if ctx ends before.
func lasting(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), notesWaitMax)
}

// Update implements [Target]. It may run do several times.
func (t *logNotes) Update(ctx context.Context, do func(*notesTx) error) error {
	ctx, cancel := lasting(ctx)
	defer cancel()
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return fmt.Errorf("%w: waiting for another transaction: %w", store.ErrNotStored, ctx.Err())
	}
	var err error
	for n := range notesTriesMax {
		x := &notesTx{target: t, writes: true, fresh: n > 0, write: make(map[string][]byte)}
		if err = do(x); err != nil {
			if x.guessed {
				continue // the error may come from out-of-date notes
			}
			return fmt.Errorf("update: %w", err)
		}
		if len(x.write) == 0 && !x.guessed {
			return nil
		}
		if err = x.commit(ctx); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", store.ErrNotStored, err)
}

// commit stores the writes of the transaction. If the transaction has only read cached notes,
// commit checks that they are still current.
func (x *notesTx) commit(ctx context.Context) error {
	next := &notesState{version: x.state.version + 1, notes: maps.Clone(x.state.notes)}
	for k, v := range x.write {
		if v == nil {
			delete(next.notes, k)
		} else {
			next.notes[k] = v
		}
	}
	b := &store.Batch{Key: notesKey(x.name), Expected: x.state.version}
	if len(x.write) > 0 {
		payload, err := next.encode()
		if err != nil {
			return fmt.Errorf("%w: %w", store.ErrNotStored, err)
		}
		var list perdurev1.ProjectionNotes
		b.Save = &store.State{Type: string(list.ProtoReflect().Descriptor().FullName()), Payload: payload}
		_, _ = rand.Read(b.Save.ID[:])
	} else {
		next = x.state
	}
	x.target.known.Delete(x.name) // the result is unknown until the commit returns
	results, err := x.target.log.Commit(ctx, []*store.Batch{b})
	if err == nil {
		err = results[0].Err
	}
	if err != nil {
		return fmt.Errorf("store notes of %q: %w", x.name, err)
	}
	x.target.known.Store(x.name, next)
	return nil
}

func (s *notesState) encode() ([]byte, error) {
	list := &perdurev1.ProjectionNotes{}
	for _, k := range slices.Sorted(maps.Keys(s.notes)) {
		list.Notes = append(list.Notes, &perdurev1.ProjectionNote{Key: k, Value: s.notes[k]})
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(list)
	if err == nil && len(b) > store.PayloadBytesMax {
		err = fmt.Errorf("%w: %d notes have %d bytes, at most %d are allowed (retry or drop parked entities)",
			store.ErrTooLarge, len(s.notes), len(b), store.PayloadBytesMax)
	}
	return b, err
}

// View implements [Target]: it reads the stored notes, not the cached ones.
func (t *logNotes) View(_ context.Context, do func(*notesTx) error) error {
	return do(&notesTx{target: t})
}

// Note implements [Target].
func (t *logNotes) Note(ctx context.Context, x *notesTx, key string) ([]byte, error) {
	if err := x.open(ctx, key); err != nil {
		return nil, err
	}
	if v, ok := x.write[key]; ok {
		return bytes.Clone(v), nil
	}
	return bytes.Clone(x.state.notes[key]), nil
}

// SetNote implements [Target].
func (t *logNotes) SetNote(ctx context.Context, x *notesTx, key string, value []byte) error {
	if !x.writes {
		return fmt.Errorf("%w: a view does not write notes", store.ErrInvalid)
	}
	n := Note{Key: key, Value: value}
	if err := n.Validate(); err != nil {
		return err
	}
	if err := x.open(ctx, key); err != nil {
		return err
	}
	x.write[key] = bytes.Clone(value)
	return nil
}

// Notes implements [Target].
func (t *logNotes) Notes(ctx context.Context, x *notesTx, prefix string) iter.Seq2[Note, error] {
	return func(yield func(Note, error) bool) {
		if err := x.open(ctx, prefix); err != nil {
			yield(Note{}, err)
			return
		}
		all := maps.Clone(x.state.notes)
		for k, v := range x.write {
			if delete(all, k); v != nil {
				all[k] = v
			}
		}
		for _, k := range slices.Sorted(maps.Keys(all)) {
			if strings.HasPrefix(k, prefix) && !yield(Note{Key: k, Value: all[k]}, nil) {
				return
			}
		}
	}
}
