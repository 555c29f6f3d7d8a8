package projection

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/stream"
)

// checkpointEvery is how often a runner moves its checkpoints in the log. A checkpoint is never
// ahead of the read model, and it may lag behind: its only purpose is to keep unread events from
// being deleted.
const checkpointEvery = 5 * time.Second

// checkpointName names the checkpoints of a version.
func checkpointName(name string, version int) string {
	return fmt.Sprintf("projection/%s/v%d", name, version)
}

// register makes the log keep the events that the version has yet to read: those above positions,
// one for each partition. A read model is registered as an instance, since several models of one
// name can be built from one log. Every reset makes it another instance. So a runner that does
// not know of the reset can only move checkpoints of the former instance.
func (r *run) register(ctx context.Context, a *about, positions []store.Position) error {
	readers := stream.NewReaders(r.log)
	if r.back.volatile() {
		positions = slices.Clone(positions)
		for i, p := range positions {
			positions[i] = store.NewPosition(p.Partition(), 0) // from the start again
		}
	}
	id := r.instanceID(a)
	g, err := readers.Register(ctx, checkpointName(r.name, r.version), id, positions...)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set checkpoints: %w", err)
	}
	r.marking.Lock()
	defer r.marking.Unlock()
	for _, old := range append(r.reserved, r.registered) {
		if old == "" || old == id {
			continue
		}
		if err := readers.RemoveInstance(ctx, checkpointName(r.name, r.version), old); err != nil {
			return fmt.Errorf("set checkpoints: %w", err)
		}
	}
	r.registration, r.registered, r.reserved = g, id, nil
	return nil
}

// reserve registers the version as it will be after a reset, beside its present registration. The
// caller must call release after the reset, whether the reset has worked or not.
func (r *run) reserve(ctx context.Context, a *about, positions []store.Position) (release func(), err error) {
	if r.back.volatile() {
		return func() {}, nil
	}
	id := r.instanceID(a)
	_, err = stream.NewReaders(r.log).Register(ctx, checkpointName(r.name, r.version), id, positions...)
	if errors.Is(err, errors.ErrUnsupported) {
		return func() {}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("set checkpoints: %w", err)
	}
	return func() {
		// The next beginning of the run removes the registration of the other id.
		r.marking.Lock()
		defer r.marking.Unlock()
		r.reserved = append(r.reserved, id, r.registered)
		r.registration, r.registered = nil, ""
	}, nil
}

// unregister removes the registration of the version, under its present id and its former ones.
func (r *run) unregister(ctx context.Context, a *about) error {
	readers := stream.NewReaders(r.log)
	r.marking.Lock()
	defer r.marking.Unlock()
	for _, id := range []string{r.instanceID(a), r.registered} {
		if id == "" {
			continue
		}
		if err := readers.RemoveInstance(ctx, checkpointName(r.name, r.version), id); err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return fmt.Errorf("remove checkpoints: %w", err)
		}
	}
	r.registration, r.registered = nil, ""
	return nil
}

// passed returns, for each partition, the position up to which no segment needs an event any more,
// according to the notes.
func (r *run) passed(ctx context.Context, t txn, segments map[segmentID]segmentNote, partitions int) ([]store.Position, error) {
	marks := make([]store.Position, partitions)
	for p := range marks {
		marks[p] = store.LastPosition(p)
	}
	for id, n := range segments {
		if id.partition < partitions {
			marks[id.partition] = min(marks[id.partition], n.Position)
		}
	}
	prefix := versionPrefix(r.name, r.version) + "parked/"
	for n, err := range t.notes(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		e, err := decodeParked(n.Value)
		if err != nil {
			return nil, fmt.Errorf("read note %s: %w", n.Key, err)
		}
		if p := e.Position.Partition(); p < partitions {
			marks[p] = min(marks[p], e.Position-1)
		}
	}
	for p := range marks {
		if marks[p] == store.LastPosition(p) {
			marks[p] = store.NewPosition(p, 0) // the partition has no segments
		}
	}
	return marks, nil
}

// keepCheckpoints moves the checkpoints from time to time.
func (r *run) keepCheckpoints(ctx context.Context) {
	for r.sleep(ctx, checkpointEvery, nil) {
		if err := contained(func() error { return r.mark(ctx) }); err != nil && ctx.Err() == nil {
			r.logger.Warn("projection cannot set its checkpoints", "projection", r.name, "version", r.version, "error", err)
		}
	}
}

// mark moves the checkpoints to the positions of the notes. Only the beginning of a version creates
// checkpoints. A version without notes has been removed, and if the registration is missing, an
// operator has removed it from the log.
func (r *run) mark(ctx context.Context) error {
	r.mu.Lock()
	a := r.about
	r.mu.Unlock()
	f, err := r.look(ctx)
	if err != nil {
		// The target does not answer; the segments know the positions that were noted last.
		known, ok := r.known(a.partitions)
		if !ok {
			return err
		}
		f = found{note: []byte{}, about: a, marks: known}
	}
	if f.note == nil {
		return nil
	}
	if f.about.resets != a.resets || f.about.instance != a.instance {
		r.restart()
		return nil
	}
	if r.back.volatile() {
		return nil
	}
	g := r.borrow(r.instanceID(&f.about))
	if g == nil {
		return nil
	}
	// Move runs without the lock, so that a reset, which makes another instance of the version,
	// does not wait for it.
	err = g.Move(ctx, f.marks...)
	if errors.Is(err, stream.ErrUnregistered) {
		// If the version still exists, the run begins again and finds out whether events were
		// deleted since.
		r.restart()
		return nil
	}
	r.giveRegistration(g, r.instanceID(&f.about))
	return err
}

// known returns the same positions as passed, as far as the segments of this run know.
func (r *run) known(partitions int) ([]store.Position, bool) {
	marks := make([]store.Position, partitions)
	for p := range marks {
		marks[p] = store.LastPosition(p)
	}
	segments := r.list()
	for _, l := range segments {
		l.mu.Lock()
		_, loaded := l.core.State()
		at := l.core.Passed()
		l.mu.Unlock()
		if !loaded {
			return nil, false
		}
		marks[l.id.partition] = min(marks[l.id.partition], at)
	}
	return marks, len(segments) > 0
}

// borrow takes the registration with an id out of the run, so that one goroutine at a time uses
// it. It returns nil if there is no such registration.
func (r *run) borrow(id string) *stream.Registration {
	r.marking.Lock()
	defer r.marking.Unlock()
	if r.registered != id {
		return nil
	}
	g := r.registration
	r.registration = nil
	return g
}

func (r *run) giveRegistration(g *stream.Registration, id string) {
	r.marking.Lock()
	defer r.marking.Unlock()
	if r.registered == id {
		r.registration = g
	}
}
