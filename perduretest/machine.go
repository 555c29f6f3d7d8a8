package perduretest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/core/commit"
	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/store"
)

// A machine runs the protocol core of one entity in the simplest environment: commits
// complete at once and nothing fails.
type machine struct {
	core  entity.Entity
	rules *entity.Rules
	check checker
	key   store.Key
	now   time.Time

	saved     *store.State  // state that a load begins with
	history   []store.Event // events that a load continues with
	version   store.Version
	made      []store.Event // events of the last call
	changed   bool          // the last call has saved a state
	completed int           // number of completed items that the core does not know of yet
	calls     uint64
	err       error // error of a load
}

// start ends the preparation: from here on the machine accepts calls.
func (m *machine) start(rules *entity.Rules) {
	m.rules = m.check.wrap(rules)
	m.core.Init(&entity.Options{
		Rules:    m.rules,
		Performs: func(proto.Message) bool { return true }, // handlers belong to an engine
		Limits:   entity.Limits{Calls: 1, InFlight: 1},
	}, m.key.ID, m)
}

// Submit is part of [entity.Shell].
func (m *machine) Submit(i *commit.Item) {
	b := &i.Batch
	m.version = b.Next()
	for n := range b.Events {
		e := b.Events[n].Clone()
		e.Key, e.Version = b.Key, b.Expected+store.Version(n)+1
		e.Position = store.Position(e.Version)
		m.made = append(m.made, *e)
	}
	m.history = append(m.history, m.made...)
	if m.changed = b.Save != nil; m.changed {
		m.saved = b.Save.Clone()
		m.saved.Version = m.version
	}
	r := store.Result{Time: m.now}
	if len(b.Events) > 0 {
		r.Position = store.Position(m.version)
	}
	i.Complete([]store.Result{r}, nil)
	m.ItemsDone(1)
}

// ItemsDone is part of [commit.Owner].
func (m *machine) ItemsDone(items int) { m.completed += items }

// Reply is part of [entity.Shell].
func (*machine) Reply(*entity.Call) {}

// Now is part of [entity.Shell].
func (m *machine) Now() time.Time { return m.now }

// run executes one call.
func (m *machine) run(ctx context.Context, op entity.Op, message proto.Message) entity.Outcome {
	m.made, m.changed, m.check.decision = nil, false, nil
	m.calls++
	c := &entity.Call{Ctx: ctx, Op: op, Message: message, ID: commandID(m.calls)}
	m.core.Deliver(c)
	for {
		switch {
		case m.completed > 0:
			n := m.completed
			m.completed = 0
			m.core.CommitsDone(n)
		case m.core.Task() == entity.TaskLoad:
			fold := m.core.Load()
			m.err = m.load(fold)
			m.core.Loaded(fold, m.err)
		case m.core.WantsResume():
			m.core.Resume()
		default:
			return c.Outcome
		}
	}
}

// load folds the stored state and events, as they would come from a store.
func (m *machine) load(f *entity.Fold) error {
	after := store.Version(0)
	if m.saved != nil {
		if !f.Accept(m.saved) {
			return errors.New("the state cannot be read back")
		}
		after = m.saved.Version
	}
	for i := range m.history {
		if e := &m.history[i]; e.Version > after {
			if err := f.Apply(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// happened adds an event to the stored history.
func (m *machine) happened(event proto.Message) error {
	if isNil(event) {
		return errors.New("it is nil")
	}
	payload, err := proto.Marshal(event)
	if err != nil {
		return err
	}
	m.version++
	m.history = append(m.history, store.Event{
		ID: recordID(m.version), Type: nameOf(event), Key: m.key,
		Version: m.version, Position: store.Position(m.version), Time: m.now, Payload: payload,
	})
	return nil
}

// save replaces the stored state.
func (m *machine) save(rules *entity.Rules, state proto.Message) error {
	if isNil(state) {
		return errors.New("it is nil")
	}
	payload, err := proto.Marshal(state)
	if err != nil {
		return err
	}
	m.version = 1
	m.saved = &store.State{
		ID: recordID(m.version), Type: rules.StateType, Key: m.key, Version: m.version,
		Fingerprint: rules.Fingerprint, Time: m.now, Payload: payload,
	}
	return nil
}

// events returns the events of the last call, decoded from their stored form.
func (m *machine) events() ([]proto.Message, error) {
	var events []proto.Message
	for i := range m.made {
		e := &m.made[i]
		message := m.rules.Stored[e.Type].New()
		if err := proto.Unmarshal(e.Payload, message); err != nil {
			return nil, fmt.Errorf("event %s cannot be read back: %w", e.Type, err)
		}
		events = append(events, message)
	}
	return events, nil
}

// tags returns the tags of the last call's events.
func (m *machine) tags() []string {
	if len(m.made) == 0 {
		return nil
	}
	return m.made[0].Tags
}

// commandID returns the id of the n-th command of a scenario. It is always the same, so
// that random numbers are the same too.
func commandID(n uint64) store.ID { return newID(1, n) }

func recordID(v store.Version) store.ID { return newID(2, uint64(v)) }

func newID(sort byte, n uint64) (id store.ID) {
	id[0] = sort
	id[6], id[8] = 0x70, 0x80 // UUID version 7
	binary.BigEndian.PutUint32(id[12:], uint32(n))
	return id
}
