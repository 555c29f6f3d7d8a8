package perduretest

import (
	"context"
	"errors"
	"fmt"

	"github.com/gofrs/uuid/v5"
	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/store"
)

// ErrInjected is the error of a fault, unless the test sets another one.
var ErrInjected = errors.New("injected fault")

// A Fault describes the failure of one call of a method. The zero Fault is [Pass].
type Fault struct {
	name string
	wait <-chan struct{}

	before, after           error
	panicBefore, panicAfter any
	wrong                   bool // Commit returns a wrong number of results
	results                 int
	conflict                bool
	messages                []proto.Message
}

// Pass does not fail the call.
func Pass() Fault { return Fault{} }

// NotStored makes the call do nothing and fail with an error that matches
// [store.ErrNotStored], so that the caller knows that nothing is stored.
func NotStored() Fault {
	return Fault{name: "NotStored", before: fmt.Errorf("%w: %w", store.ErrNotStored, ErrInjected)}
}

// FailBefore makes the call do nothing and fail with err; nil is [ErrInjected]. A caller of
// Commit cannot know that nothing was stored, unless err says so. An iteration yields the
// error at once.
func FailBefore(err error) Fault { return Fault{name: "FailBefore", before: orInjected(err)} }

// FailAfter makes the call do its work and fail with err; nil is [ErrInjected]. So a commit
// is stored, and the caller does not know it. An iteration yields the error at its end,
// after all values.
func FailAfter(err error) Fault { return Fault{name: "FailAfter", after: orInjected(err)} }

// PanicBefore makes the call do nothing and panic with value.
func PanicBefore(value any) Fault { return Fault{name: "PanicBefore", panicBefore: value} }

// PanicAfter makes the call do its work and panic with value.
func PanicAfter(value any) Fault { return Fault{name: "PanicAfter", panicAfter: value} }

// WrongResults makes Commit do its work and return n results, however many batches the
// group has. It is [Pass] for other methods.
func WrongResults(n int) Fault { return Fault{name: "WrongResults", wrong: true, results: max(0, n)} }

// Conflict makes another writer commit first, for the first batch with a key, so that the
// store itself refuses that batch with a conflict. The messages are the events that the
// other writer adds to the entity, or the new state of a durable-state entity. Without
// messages the other writer repeats the first change in the batch or, if the batch has
// none, the entity's last change; for an entity without a past it does nothing. Conflict is
// [Pass] for methods other than Commit.
func Conflict(messages ...proto.Message) Fault {
	return Fault{name: "Conflict", conflict: true, messages: messages}
}

// Delay makes the call wait until release is closed, before it does its work. If the
// context of the call ends first, the call fails with the context's error and has done
// nothing.
func Delay(release <-chan struct{}) Fault { return Fault{name: "Delay", wait: release} }

// Until returns the fault with a [Delay] before it.
func (f Fault) Until(release <-chan struct{}) Fault {
	f.wait = release
	if f.name == "" {
		f.name = "Delay"
	}
	return f
}

func orInjected(err error) error {
	if err == nil {
		return ErrInjected
	}
	return err
}

// hold waits as long as the fault's Delay says.
func (f Fault) hold(ctx context.Context) error {
	if f.wait == nil {
		return nil
	}
	select {
	case <-f.wait:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// strike applies the part of the fault that comes before the call.
func (f Fault) strike() error {
	if f.panicBefore != nil {
		panic(f.panicBefore)
	}
	return f.before
}

// end applies the part of the fault that comes after the call, which has ended with err.
func (f Fault) end(err error) error {
	if f.panicAfter != nil {
		panic(f.panicAfter)
	}
	if err == nil {
		return f.after
	}
	return err
}

// overtake commits a batch for the first entity of the group, as another writer would.
func (l *faultyLog) overtake(ctx context.Context, group []*store.Batch, messages []proto.Message) error {
	for _, b := range group {
		if b.Key.IsZero() {
			continue
		}
		other, err := l.rival(ctx, b, messages)
		if err != nil {
			return fmt.Errorf("conflict for %v: %w: %w", b.Key, store.ErrNotStored, err)
		}
		if other.IsCheck() {
			return nil
		}
		results, err := l.log.Commit(ctx, []*store.Batch{other})
		if err == nil && len(results) == 1 {
			err = results[0].Err
		}
		if err != nil && !errors.Is(err, store.ErrConflict) {
			return fmt.Errorf("conflict for %v: %w: %w", b.Key, store.ErrNotStored, err)
		}
		return nil // a conflict must mean that there was another writer
	}
	return nil
}

// rival returns the batch that the other writer commits before b.
func (l *faultyLog) rival(ctx context.Context, b *store.Batch, messages []proto.Message) (*store.Batch, error) {
	other := &store.Batch{Key: b.Key, Expected: b.Expected}
	event, state, err := l.model(ctx, b)
	if err != nil {
		return nil, err
	}
	switch {
	case len(messages) == 0:
		if state != nil {
			other.Save = state
		} else if event != nil {
			other.Events = []store.Event{*event}
		}
	case state != nil:
		s, err := proto.Marshal(messages[len(messages)-1])
		if err != nil {
			return nil, err
		}
		state.Payload, state.Type = s, nameOf(messages[len(messages)-1])
		other.Save = state
	default:
		for _, m := range messages {
			payload, err := proto.Marshal(m)
			if err != nil {
				return nil, err
			}
			other.Events = append(other.Events, store.Event{Type: nameOf(m), Payload: payload})
		}
	}
	command := newUUID()
	for i := range other.Events {
		e := &other.Events[i]
		e.ID, e.Metadata = newUUID(), store.Metadata{CausationID: command}
	}
	if other.Save != nil {
		other.Save.ID, other.Save.Metadata = newUUID(), store.Metadata{CausationID: command}
	}
	return other, nil
}

// model returns the change that the other writer repeats: the first event of the batch or
// its state or, if it has neither, the last event or the state of the entity.
func (l *faultyLog) model(ctx context.Context, b *store.Batch) (*store.Event, *store.State, error) {
	switch {
	case len(b.Events) > 0:
		return b.Events[0].Clone(), nil, nil
	case b.Save != nil:
		return nil, b.Save.Clone(), nil
	}
	var last *store.Event
	for e, err := range l.log.Read(ctx, b.Key, max(b.Expected, 1)-1) {
		if err != nil {
			return nil, nil, err
		}
		last = e.Clone()
	}
	if last != nil {
		return last, nil, nil
	}
	var state *store.State
	for _, err := range l.log.Load(ctx, b.Key, func(s *store.State) bool {
		state = s.Clone()
		return true
	}) {
		if err != nil {
			return nil, nil, err
		}
	}
	return nil, state, nil
}

func newUUID() store.ID { return store.ID(uuid.Must(uuid.NewV7())) }
