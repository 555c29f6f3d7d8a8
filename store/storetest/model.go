package storetest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/perdure/perdure/store"
)

// modelCases commit random sequences of groups and compare all reads with a model that is
// too simple to be wrong.
var modelCases = []testCase{
	{name: "random groups leave what a simple model says", run: func(x *fixture) { runModel(x, 1) }},
	{name: "random groups in many partitions leave what a simple model says", needs: []need{partitions}, run: func(x *fixture) {
		runModel(x, 3)
	}},
}

// A model holds the records that a log should hold. It keeps plain values in plain maps and
// slices, and does each thing in the most obvious way.
type model struct {
	entities    map[store.Key]*modelEntity
	log         [][]modelEvent // by partition
	messages    []modelMessage // in order of sequence
	receipts    map[[3]string]string
	claims      map[store.Claim]store.Key
	checkpoints map[string]store.Position
	deleted     map[modelDeletion]store.Position
	saved       map[store.Key]bool
}

type modelEntity struct {
	version store.Version
	states  map[store.Version]string
	events  map[store.Version]string
}

type modelEvent struct {
	key     store.Key
	version store.Version
	text    string
	deleted bool
}

type modelDeletion struct {
	kind      string
	partition int
}

type modelMessage struct {
	sequence uint64
	source   store.Key
	timer    string
	due      time.Time
	text     string
	parked   bool
	halted   bool
	owner    uint64
}

func newModel(partitions int) *model {
	return &model{
		entities:    make(map[store.Key]*modelEntity),
		log:         make([][]modelEvent, partitions),
		receipts:    make(map[[3]string]string),
		claims:      make(map[store.Claim]store.Key),
		checkpoints: make(map[string]store.Position),
		deleted:     make(map[modelDeletion]store.Position),
		saved:       make(map[store.Key]bool),
	}
}

func (m *model) entity(key store.Key) *modelEntity {
	e := m.entities[key]
	if e == nil {
		e = &modelEntity{states: make(map[store.Version]string), events: make(map[store.Version]string)}
		m.entities[key] = e
	}
	return e
}

// commit applies a group to the model and compares it with the results of the log. It
// returns the difference as an error.
func (m *model) commit(group []*store.Batch, results []store.Result) error {
	refused := make(map[store.Key]bool)
	for i, b := range group {
		reasons, got := m.refusals(b, refused[b.Key]), results[i].Err
		match := func(reason error) bool { return errors.Is(got, reason) }
		if (got != nil || len(reasons) > 0) && !slices.ContainsFunc(reasons, match) {
			return fmt.Errorf("batch %d (%v at %d): got error %w, want one of %v", i, b.Key, b.Expected, got, reasons)
		}
		if got != nil {
			if !b.Key.IsZero() {
				refused[b.Key] = true
			}
			continue
		}
		if err := m.apply(b, results[i]); err != nil {
			return fmt.Errorf("batch %d (%v at %d): %w", i, b.Key, b.Expected, err)
		}
	}
	return nil
}

// refusals returns all reasons to refuse a batch. The log may report any of them.
func (m *model) refusals(b *store.Batch, behind bool) (reasons []error) {
	if !b.Key.IsZero() && (behind || m.entity(b.Key).version != b.Expected) {
		reasons = append(reasons, store.ErrConflict)
	}
	for _, s := range b.Settle {
		if s.Required && m.settled(&s) < 0 {
			reasons = append(reasons, store.ErrMessageGone)
		}
	}
	for _, c := range b.Receipts {
		_, kept := m.receipts[[3]string{b.Key.Kind, b.Key.ID, c.Name}]
		if kept && !slices.Contains(b.Forget, c.Name) {
			reasons = append(reasons, store.ErrAnswered)
		}
	}
	for _, c := range b.Claim {
		if owner, held := m.claims[c]; held && owner != b.Key {
			reasons = append(reasons, store.ErrClaimed)
		}
	}
	return reasons
}

func (m *model) message(sequence uint64) int {
	return slices.IndexFunc(m.messages, func(r modelMessage) bool { return r.sequence == sequence })
}

// settled returns the index of the message that a settlement applies to, or -1 if the
// settlement counts the message as gone.
func (m *model) settled(s *store.Settlement) int {
	i := m.message(s.Sequence)
	if i >= 0 && s.Misses(&store.Message{Owner: m.messages[i].owner, Parked: m.messages[i].parked}) {
		return -1
	}
	return i
}

func (m *model) removeTimer(key store.Key, name string) {
	m.messages = slices.DeleteFunc(m.messages, func(r modelMessage) bool {
		return name != "" && r.source == key && r.timer == name
	})
}

func (m *model) apply(b *store.Batch, r store.Result) error {
	e := &modelEntity{}
	if !b.Key.IsZero() {
		e = m.entity(b.Key)
	}
	p := store.PartitionOf(b.Key, len(m.log))
	for i := range b.Events {
		e.version++
		text := string(b.Events[i].Payload)
		e.events[e.version] = text
		m.log[p] = append(m.log[p], modelEvent{key: b.Key, version: e.version, text: text})
	}
	if n := len(b.Events); n > 0 && r.Position != store.NewPosition(p, uint64(len(m.log[p]))) {
		return fmt.Errorf("got position %v, want that of the last event, %d", r.Position, len(m.log[p]))
	}
	if b.Save != nil {
		e.version = b.Next()
		e.states = map[store.Version]string{e.version: string(b.Save.Payload)}
		m.saved[b.Key] = true
	}
	if b.Snapshot != nil {
		e.states[e.version] = string(b.Snapshot.Payload)
		versions := slices.Sorted(maps.Keys(e.states))
		for _, v := range versions[:max(0, len(versions)-2)] {
			delete(e.states, v)
		}
	}
	m.applyOutbox(b, r)
	for _, name := range b.Forget {
		delete(m.receipts, [3]string{b.Key.Kind, b.Key.ID, name})
	}
	for _, c := range b.Receipts {
		m.receipts[[3]string{b.Key.Kind, b.Key.ID, c.Name}] = string(c.Reply)
	}
	for _, c := range b.Release {
		if m.claims[c] == b.Key {
			delete(m.claims, c)
		}
	}
	for _, c := range b.Claim {
		m.claims[c] = b.Key
	}
	for _, k := range b.Checkpoints {
		if k.Remove {
			delete(m.checkpoints, k.Name)
		} else {
			m.checkpoints[k.Name] = k.Position
		}
	}
	return nil
}

func (m *model) applyOutbox(b *store.Batch, r store.Result) {
	for _, s := range b.Settle {
		i := m.settled(&s)
		switch {
		case i < 0:
		case s.Message == nil:
			m.messages = slices.Delete(m.messages, i, i+1)
		default:
			r := &m.messages[i]
			r.parked, r.halted, r.due, r.owner = s.Message.Parked, s.Message.Halted, s.Message.Due, s.Message.Owner
		}
	}
	for _, name := range b.Cancel {
		m.removeTimer(b.Key, name)
	}
	for i, a := range b.Enqueue {
		m.removeTimer(b.Key, a.Timer)
		m.messages = append(m.messages, modelMessage{
			sequence: r.Sequence - uint64(len(b.Enqueue)-1-i), source: b.Key,
			timer: a.Timer, due: a.Due, text: string(a.Payload), owner: a.Owner,
		})
	}
}

// deleteEvents returns the number of events that the log should delete, or false if it
// should refuse.
func (m *model) deleteEvents(key store.Key, below store.Version) (int, bool) {
	e := m.entity(key)
	covered := store.Version(0)
	for v := range e.states {
		covered = max(covered, v)
	}
	if below > covered+1 {
		return 0, false
	}
	n := 0
	for p := range m.log {
		for i := range m.log[p] {
			if ev := &m.log[p][i]; ev.key == key && ev.version < min(below, e.version) && !ev.deleted {
				ev.deleted = true
				where := modelDeletion{key.Kind, p}
				m.deleted[where] = max(m.deleted[where], store.NewPosition(p, uint64(i)+1))
				delete(e.events, ev.version)
				n++
			}
		}
	}
	return n, true
}

func (m *model) deleteSnapshots(key store.Key, below store.Version) int {
	e := m.entity(key)
	latest := store.Version(0)
	for v := range e.states {
		latest = max(latest, v)
	}
	before := len(e.states)
	maps.DeleteFunc(e.states, func(v store.Version, _ string) bool { return v < min(below, latest) })
	return before - len(e.states)
}
