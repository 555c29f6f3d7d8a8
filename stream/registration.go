package stream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
	"github.com/perdure/perdure/store"
)

// ErrUnregistered says that the registration of a reader has been removed, by an
// operator or because it had not changed for too long. Events that the reader has not
// read may be deleted from then on.
var ErrUnregistered = errors.New("reader is not registered any more")

const (
	// ReaderKind is the kind of the entities that keep the instances of the
	// registered readers of a log.
	ReaderKind = "perdure.reader"
	// LiveReaders is the name under which the engines that share a log register
	// the readers of [Hub.Follow] and [Hub.Commits], each engine as an instance.
	LiveReaders = "live"

	// changeTriesMax bounds the attempts of a change while others change the same
	// reader.
	changeTriesMax = 32
)

// Readers manages the registered readers of a log: the log does not delete events that
// a registered reader has not yet read. Registrations are stored in the log itself, so
// every engine and every tool sees them.
//
// A registered reader has a name and one or more instances, each with a position for
// every partition that it reads. The [store.Checkpoint] of the name is at the lowest
// position of all instances, in each partition; events at or above a checkpoint are not
// deleted. For example, two replicas keep a read model each, one at position 3 and the
// other at 13: then the checkpoint "projection/sums/v1" is at 3.
//
// Each name is a durable-state entity of the kind [ReaderKind] that holds the
// instances. Its checkpoints move in the batch that changes the entity. If another change
// has come first, the change is computed again from the stored state.
//
// The methods may be called by many goroutines at once.
type Readers struct{ log store.Log }

// NewReaders returns the registered readers of a log. If the store keeps no checkpoints, the
// methods return errors matching [errors.ErrUnsupported].
func NewReaders(log store.Log) *Readers { return &Readers{log: log} }

// A Registration is one instance of a registered reader. Only one goroutine at a time
// may call its methods.
type Registration struct {
	readers  *Readers
	name, id string

	// The state that this value has stored last; last is nil if the stored state is
	// unknown.
	version store.Version
	last    *perdurev1.Reader
}

// Register registers an instance of a reader, or sets the positions of an instance that
// is registered already: at most one position for each partition, and none for a
// partition that the instance does not read. Once Register returns a nil error, no
// event at or above these positions is deleted. So a reader first registers its
// positions, and then begins to read.
//
// An instance is identified by its id, and a reader that goes on after a restart uses
// the same id. Readers that save their progress in one place, such as one database,
// share one instance; replicas that save it separately have one instance each.
//
// If another program has set a checkpoint of the name without an instance, the positions
// of the instances replace it.
func (r *Readers) Register(ctx context.Context, name, id string, positions ...store.Position) (*Registration, error) {
	g := &Registration{readers: r, name: name, id: id}
	if err := validateReader(name, id); err != nil {
		return nil, fmt.Errorf("register reader: %w", err)
	}
	err := g.change(ctx, true, func(in *perdurev1.ReaderInstance) bool {
		in.Positions = nil
		in.Process = processText()
		move(in, positions)
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("register reader %q: %w", name, err)
	}
	return g, nil
}

// Move changes positions of the instance: forwards, or backwards to read events a
// second time. Partitions without a position in the call stay as they are. A position
// says that the reader has durably finished all events at or below it: events that it
// would read again after a crash are above it. Call Move from time to time, for example
// once a second, and not for every event. If no position changes, Move stores nothing.
//
// It returns an error matching [ErrUnregistered] if the instance was removed: the
// reader must register again, and gets [ErrDeleted] if events were deleted that it has
// not read. After any other error the outcome is unknown, and Move may be called again.
func (g *Registration) Move(ctx context.Context, positions ...store.Position) error {
	err := g.change(ctx, false, func(in *perdurev1.ReaderInstance) bool { return move(in, positions) })
	if err != nil {
		return fmt.Errorf("move reader %q: %w", g.name, err)
	}
	return nil
}

// Remove removes the instance, so its unread events may be deleted. It is no error if
// the instance was removed before.
func (g *Registration) Remove(ctx context.Context) error {
	return g.readers.RemoveInstance(ctx, g.name, g.id)
}

// replace sets the positions of the instance; it then reads no other partition. It
// stores a heartbeat even if no position changes.
func (g *Registration) replace(ctx context.Context, positions []store.Position) error {
	return g.change(ctx, false, func(in *perdurev1.ReaderInstance) bool {
		before := in.Positions
		in.Positions = nil
		move(in, positions)
		if slices.Equal(before, in.Positions) {
			in.Beat++
		}
		return true
	})
}

// move sets positions and reports whether one of them has changed.
func move(in *perdurev1.ReaderInstance, positions []store.Position) (moved bool) {
	for _, p := range positions {
		i, found := slices.BinarySearchFunc(in.Positions, p, func(at uint64, p store.Position) int {
			return store.Position(at).Partition() - p.Partition()
		})
		switch {
		case !found:
			in.Positions = slices.Insert(in.Positions, i, uint64(p))
		case in.Positions[i] == uint64(p):
			continue
		default:
			in.Positions[i] = uint64(p)
		}
		moved = true
	}
	if moved {
		in.Beat++
		in.TimeUnixNano = time.Now().UnixNano()
	}
	return moved
}

// change calls do with the instance and stores the instance if do returns true. If
// there is no such instance, change makes it, or returns [ErrUnregistered] if make is
// false.
func (g *Registration) change(ctx context.Context, make bool, do func(*perdurev1.ReaderInstance) bool) error {
	version, last := g.version, g.last
	g.last = nil // unknown until the change is stored
	edit := func(s *perdurev1.Reader) (bool, error) {
		i := slices.IndexFunc(s.Instances, func(in *perdurev1.ReaderInstance) bool { return in.Id == g.id })
		if i < 0 {
			if !make {
				return false, ErrUnregistered
			}
			i = len(s.Instances)
			// The beat begins at a random number, so that an instance that registers
			// again after a removal is not mistaken for the removed one.
			beat := newID()
			s.Instances = append(s.Instances, &perdurev1.ReaderInstance{Id: g.id, Beat: binary.BigEndian.Uint64(beat[8:])})
		}
		return do(s.Instances[i]), nil
	}
	version, last, err := g.readers.change(ctx, g.name, version, last, edit)
	if err == nil {
		g.version, g.last = version, last
	}
	return err
}

// change edits the state of a reader and stores it with its checkpoints. If another
// change was stored first, it loads the state and tries again. It begins with the given
// state, or loads the state if last is nil, and returns the state that is stored at the
// end.
func (r *Readers) change(ctx context.Context, name string, version store.Version, last *perdurev1.Reader,
	edit func(*perdurev1.Reader) (changed bool, err error),
) (store.Version, *perdurev1.Reader, error) {
	key := store.Key{Kind: ReaderKind, ID: name}
	var err error
	for range changeTriesMax {
		if last == nil {
			if version, last, err = r.load(ctx, key); err != nil {
				return 0, nil, err
			}
		}
		next := proto.CloneOf(last)
		changed, err2 := edit(next)
		if err2 != nil {
			return 0, nil, err2
		}
		if !changed {
			return version, last, nil
		}
		payload, err2 := proto.MarshalOptions{Deterministic: true}.Marshal(next)
		if err2 != nil {
			return 0, nil, err2
		}
		err = commit(ctx, r.log, &store.Batch{
			Key: key, Expected: version, Checkpoints: moves(name, lowest(last), lowest(next)),
			Save: &store.State{ID: newID(), Type: string(next.ProtoReflect().Descriptor().FullName()), Payload: payload},
		})
		if err == nil {
			return version + 1, next, nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return 0, nil, err
		}
		last = nil
	}
	return 0, nil, err
}

// load returns the state of a reader, an empty one if there is none.
func (r *Readers) load(ctx context.Context, key store.Key) (version store.Version, s *perdurev1.Reader, err error) {
	defer contain(&err)
	s = &perdurev1.Reader{}
	var bad error
	for _, err := range r.log.Load(ctx, key, func(st *store.State) bool {
		version = st.Version
		bad = proto.Unmarshal(st.Payload, s)
		return true
	}) {
		if err != nil {
			return 0, nil, err
		}
	}
	if bad != nil {
		return 0, nil, &store.CorruptError{What: "reader", Key: key, Version: version, Reason: bad.Error()}
	}
	return version, s, nil
}

// lowest returns the lowest position of each partition over all instances, sorted.
func lowest(s *perdurev1.Reader) (all []store.Position) {
	for _, in := range s.Instances {
		for _, at := range in.Positions {
			p := store.Position(at)
			i, found := slices.BinarySearchFunc(all, p, func(a, b store.Position) int { return a.Partition() - b.Partition() })
			if !found {
				all = slices.Insert(all, i, p)
			} else {
				all[i] = min(all[i], p)
			}
		}
	}
	return all
}

// moves returns the changes of checkpoints from one list of positions to another one.
// Checkpoints that stay in place are not stored again.
func moves(name string, from, to []store.Position) (marks []store.Checkpoint) {
	for _, p := range to {
		if !slices.Contains(from, p) {
			marks = append(marks, store.Checkpoint{Name: name, Position: p})
		}
	}
	for _, p := range from {
		if !slices.ContainsFunc(to, func(q store.Position) bool { return q.Partition() == p.Partition() }) {
			marks = append(marks, store.Checkpoint{Name: name, Position: p, Remove: true})
		}
	}
	return marks
}

// A Reader is an entry of [Readers.List].
type Reader struct {
	// Name is the name of the checkpoints. Subscriptions have [CheckpointPrefix]
	// before their names, projections "projection/".
	Name string
	// Positions are its checkpoints, one for each partition that it holds, sorted.
	Positions []store.Position
	// Moved is the time at which one of the checkpoints moved last, by the clock of the
	// store. A reader that has read all events does not move, so an old time does not
	// prove that the reader is gone.
	Moved time.Time
	// Instances are the registered instances. There is none for a subscription that
	// keeps its position in the log, and for a checkpoint that a program has set without
	// registering.
	Instances []Instance
}

// An Instance is one instance of a registered reader.
type Instance struct {
	ID string
	// Positions are the positions of the instance, one for each partition that it
	// reads, sorted.
	Positions []store.Position
	// Moved is the time at which the instance moved last, by the clock of its own
	// machine. Process is the host name and process id, such as "web-1:4711". Both are
	// information for operators.
	Moved   time.Time
	Process string
}

// List returns all readers whose checkpoints keep events from being deleted, sorted by
// name: registered readers and all others that have a checkpoint.
func (r *Readers) List(ctx context.Context) ([]Reader, error) {
	marks, err := r.log.Checkpoints(ctx)
	if err != nil {
		return nil, fmt.Errorf("list readers: %w", err)
	}
	var all []Reader
	for _, m := range marks {
		if n := len(all); n == 0 || all[n-1].Name != m.Name {
			all = append(all, Reader{Name: m.Name})
		}
		last := &all[len(all)-1]
		last.Positions = append(last.Positions, m.Position)
		if m.Time.After(last.Moved) {
			last.Moved = m.Time
		}
	}
	for i := range all {
		if validateReader(all[i].Name, "-") != nil {
			continue
		}
		_, s, err := r.load(ctx, store.Key{Kind: ReaderKind, ID: all[i].Name})
		if err != nil {
			return nil, fmt.Errorf("list readers: %w", err)
		}
		all[i].Instances = instances(s)
	}
	return all, nil
}

func instances(s *perdurev1.Reader) (all []Instance) {
	for _, in := range s.Instances {
		i := Instance{ID: in.Id, Moved: time.Unix(0, in.TimeUnixNano).UTC(), Process: in.Process}
		for _, p := range in.Positions {
			i.Positions = append(i.Positions, store.Position(p))
		}
		all = append(all, i)
	}
	return all
}

// Remove removes a reader: its checkpoints and all of its instances. Use it for a reader
// that does not come back, such as a projection whose code was removed. A reader that
// still runs gets [ErrUnregistered], or [ErrFenced] if it is a subscription that keeps
// its position in the log. A subscription that is opened again under the name begins as
// a new one. It returns an error matching [store.ErrNotFound] if there is no such
// reader.
func (r *Readers) Remove(ctx context.Context, name string) error {
	if err := r.remove(ctx, name); err != nil {
		return fmt.Errorf("remove reader %q: %w", name, err)
	}
	return nil
}

func (r *Readers) remove(ctx context.Context, name string) error {
	marks, err := r.log.Checkpoints(ctx)
	if err != nil {
		return err
	}
	marks = slices.DeleteFunc(marks, func(b store.Checkpoint) bool { return b.Name != name })
	for i := range marks {
		marks[i].Remove = true
	}
	found := len(marks) > 0
	if sub, ok := strings.CutPrefix(name, CheckpointPrefix); ok && found {
		k := &logCheckpoint{log: r.log, name: sub, key: store.Key{Kind: ClaimKind, ID: sub}}
		if there, err := k.overtake(ctx, marks); err != nil {
			return err
		} else if there {
			marks = nil // the batch of the claim has removed them
		}
	}
	if validateReader(name, "-") == nil {
		_, _, err := r.change(ctx, name, 0, nil, func(s *perdurev1.Reader) (bool, error) {
			had := len(s.Instances) > 0
			found = found || had
			s.Instances = nil
			return had, nil
		})
		if err != nil {
			return err
		}
	}
	if !found {
		return store.ErrNotFound
	}
	if len(marks) == 0 {
		return nil
	}
	return commit(ctx, r.log, &store.Batch{Checkpoints: marks})
}

// RemoveInstance removes one instance of a reader, such as a replica that does not come
// back; the checkpoints move up to the lowest positions of the other instances. It is no
// error if there is no such instance.
func (r *Readers) RemoveInstance(ctx context.Context, name, id string) error {
	err := validateReader(name, id)
	if err == nil {
		_, _, err = r.change(ctx, name, 0, nil, func(s *perdurev1.Reader) (bool, error) {
			before := len(s.Instances)
			s.Instances = slices.DeleteFunc(s.Instances, func(in *perdurev1.ReaderInstance) bool { return in.Id == id })
			return len(s.Instances) < before, nil
		})
	}
	if err != nil {
		return fmt.Errorf("remove instance %q of reader %q: %w", id, name, err)
	}
	return nil
}

func validateReader(name, id string) error {
	if err := store.ValidateName("reader name", name); err != nil {
		return err
	}
	if err := store.ValidateName("reader instance", id); err != nil {
		return err
	}
	return store.Key{Kind: ReaderKind, ID: name}.Validate()
}

// processText returns the host name and process id, for operators.
func processText() string {
	host, err := os.Hostname()
	if err != nil {
		host = "?"
	}
	return fmt.Sprintf("%s:%d", host, os.Getpid())
}
