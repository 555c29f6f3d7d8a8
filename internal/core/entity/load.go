package entity

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/store"
)

// errHistoryPruned ends a load that skipped a snapshot in order to find out whether uncertain
// commands were stored, and then found that the events below the snapshot have been deleted.
var errHistoryPruned = errors.New("events below the snapshot are gone")

// ErrSnapshot is the error of a load that has to use a snapshot and cannot: the events below
// the snapshot are deleted, and the rules cannot read it. The data is not damaged; other rules
// can read it.
var ErrSnapshot = errors.New("snapshot cannot be used")

// A Fold builds the state of an entity from its stored snapshots and events. It belongs to one
// load.
//
//  1. It begins with a snapshot that the present fold would have made, if the store offers
//     one, and applies the events above it.
//  2. Without such a snapshot it begins with an empty state and applies all events.
//  3. If it cannot, because the first events are deleted or the rules no longer know their
//     type, then a snapshot of another fold is the only record of that data. The Fold uses
//     that snapshot as it is, or after a migration, and applies the events above it.
type Fold struct {
	e        *Entity
	state    proto.Message
	version  store.Version
	position store.Position
	snapshot store.Version

	fallback     fallback
	usesFallback bool  // the fold uses the spare snapshot
	foreign      bool  // the snapshot or an event holds data that its message type does not know
	refused      error // the reason why a snapshot cannot be used

	uncertain       map[store.ID]*Call
	oldest          store.Version // lowest expected version of the uncertain calls
	skippedSnapshot bool          // a snapshot was skipped in order to look for uncertain calls
	base            store.Version // highest version that a snapshot may have, if bounded
	until           store.Version // last version to fold, if bounded
	bounded         bool          // the fold stops at until
	err             error
}

// A fallback is the newest readable snapshot that another fold has made.
type fallback struct {
	state    proto.Message
	version  store.Version
	position store.Position
}

// ErrPastEnd is returned by [Fold.Apply] for an event above the last version to fold.
var ErrPastEnd = errors.New("enough")

// ErrGone is the error of a state that can no longer be built, because some of its events are
// deleted.
var ErrGone = errors.New("state is no longer kept")

// Until returns a fold that ends at a version, to read an earlier state.
func (e *Entity) Until(version store.Version) *Fold { return e.Between(version, version) }

// Between returns a fold that ends at the last version and passes through the
// first one, unless it begins above that because events are deleted.
func (e *Entity) Between(first, last store.Version) *Fold {
	return &Fold{e: e, base: first, until: last, bounded: true}
}

// At returns the version of the fold and its state. The caller must not change the state.
func (f *Fold) At() (store.Version, proto.Message) {
	if f.state == nil {
		f.state = f.e.opts.Rules.NewState()
	}
	return f.version, f.state
}

// State returns the state that the fold has built. It returns an error matching [ErrGone] if
// the fold did not reach the last version to fold.
func (f *Fold) State() (proto.Message, error) {
	f.end()
	switch {
	case f.err != nil:
		return nil, f.err
	case f.version != f.until:
		return nil, fmt.Errorf("version %d: %w", f.until, ErrGone)
	case f.state == nil:
		return f.e.opts.Rules.NewState(), nil
	}
	return f.state, nil
}

// Position returns the position of the last event that the fold has read, or of its saved
// state.
func (f *Fold) Position() store.Position { return f.position }

// Load begins a load and returns the fold that the shell fills with the stored records.
func (e *Entity) Load() *Fold {
	f := &Fold{e: e}
	if e.historyPruned {
		return f
	}
	for c := e.waiting.first; c != nil; c = c.next {
		if !c.uncertain {
			continue
		}
		if f.uncertain == nil {
			f.uncertain = make(map[store.ID]*Call)
			f.oldest = c.expected
		}
		f.uncertain[c.ID] = c
		f.oldest = min(f.oldest, c.expected)
	}
	return f
}

// FallbackVersion returns the version of the snapshot of another fold that the fold had to use, or
// 0.
func (f *Fold) FallbackVersion() store.Version {
	if !f.usesFallback {
		return 0
	}
	return f.fallback.version
}

// Accept offers the fold the saved state or a snapshot. It returns false if the fold cannot
// begin with it.
func (f *Fold) Accept(s *store.State) bool {
	rules := f.e.opts.Rules
	if rules.Durable {
		state, err := rules.ReadState(s.Type, s.Payload)
		if err != nil {
			f.err = fmt.Errorf("state version %d: %w", s.Version, err)
			return false
		}
		f.state, f.version, f.position = state, s.Version, s.Position
		for _, c := range f.uncertain {
			c.found = c.found || c.savedBy == s.Metadata.CausationID
		}
		return true
	}
	switch {
	case f.bounded && s.Version > f.base:
		return false
	case f.uncertain != nil && s.Version > f.oldest:
		f.skippedSnapshot = true
		return false
	}
	judgement := rules.judge(s)
	same := judgement == SnapshotSame && s.Type == rules.StateType
	if !same && f.fallback.state != nil {
		return false
	}
	state, err := rules.ReadState(s.Type, s.Payload)
	if judgement == SnapshotUnreadable && s.Type == rules.StateType {
		err = fmt.Errorf("fields of the stored %s have other types than the present ones of the same number: give fields whose type changes a new number", s.Type)
	}
	if err == nil && !same && s.Type == rules.StateType {
		err = mismatch(state.ProtoReflect()) // a snapshot without a fingerprint does not show a changed type
	}
	switch {
	case err != nil && f.refused == nil:
		f.refused = fmt.Errorf("snapshot version %d: %w", s.Version, err)
		return false
	case err != nil:
		return false
	case !same:
		f.fallback = fallback{state, s.Version, s.Position}
		return false
	}
	f.state, f.version, f.position, f.snapshot = state, s.Version, s.Position, s.Version
	// A snapshot of the same program holds no data that the program does not know.
	f.foreign = (rules.Fold == nil || !bytes.Equal(s.Fold, rules.Fold())) && f.holdsForeign(state)
	return true
}

// useFallback continues with the fallback snapshot.
func (f *Fold) useFallback() {
	f.usesFallback = true
	f.state, f.snapshot = f.fallback.state, f.fallback.version
	f.version, f.position = f.fallback.version, f.fallback.position
	f.foreign = f.holdsForeign(f.state)
}

// holdsForeign reports whether a snapshot holds data that the program does not know, see
// [StoredRule.Foreign]. The newer program that made the snapshot may have rules that change
// this data with events which both programs know.
func (f *Fold) holdsForeign(state proto.Message) bool {
	return f.e.opts.Rules.SnapshotEvery > 0 && foreign(state.ProtoReflect())
}

// Apply folds the next event. It does not keep ev.
func (f *Fold) Apply(ev *store.Event) error {
	if f.err != nil {
		return f.err
	}
	if f.bounded && ev.Version > f.until {
		return ErrPastEnd
	}
	rule := f.e.opts.Rules.Stored[ev.Type]
	pruned := f.version == 0 && ev.Version > 1
	switch needed := ev.Version; {
	case !pruned && rule != nil, f.usesFallback:
	case f.skippedSnapshot:
		return errHistoryPruned
	default:
		if pruned {
			needed--
		}
		if f.fallback.state != nil && f.fallback.version >= needed {
			f.useFallback()
		}
	}
	switch {
	case f.usesFallback && ev.Version <= f.version:
		f.foundEvent(ev) // the snapshot covers the event
		return nil
	case ev.Version != f.version+1 && f.skippedSnapshot:
		return errHistoryPruned
	case pruned && f.bounded && !f.usesFallback:
		return fmt.Errorf("version %d: %w", f.until, ErrGone)
	case pruned && !f.usesFallback && f.refused != nil:
		return f.errLost(ev.Version)
	case ev.Version != f.version+1:
		return &store.CorruptError{
			What: "history", Key: f.e.Key(), Version: f.version + 1,
			Reason: fmt.Sprintf("the next event has version %d", ev.Version),
		}
	case rule == nil && f.refused != nil:
		return fmt.Errorf("event version %d: stored type %s has neither an Evolve rule nor an Upcast, and the state behind it cannot be taken: %w",
			ev.Version, ev.Type, f.refused)
	case rule == nil:
		return fmt.Errorf("event version %d: stored type %s has neither an Evolve rule nor an Upcast", ev.Version, ev.Type)
	}
	if f.state == nil {
		f.state = f.e.opts.Rules.NewState()
	}
	if err := f.apply(rule, ev); err != nil {
		return err
	}
	f.version, f.position = ev.Version, ev.Position
	f.foundEvent(ev)
	return nil
}

// foundEvent records that the log holds an event of an uncertain call.
func (f *Fold) foundEvent(ev *store.Event) {
	if c := f.uncertain[ev.Metadata.CausationID]; c != nil {
		c.found, c.position = true, ev.Position
	}
}

// errLost returns the error of a state that is only in a snapshot which cannot be used.
func (f *Fold) errLost(first store.Version) error {
	return fmt.Errorf("%w: %w; the events below version %d, from which the state could be built without it, are deleted (RetainEvents). "+
		"The snapshot has the fingerprint of another version of the program, and is not damaged: that version can still read it",
		ErrSnapshot, f.refused, first)
}

// end is called when there are no more events.
func (f *Fold) end() {
	switch {
	case f.err != nil || f.version > 0:
	case f.fallback.state != nil:
		f.useFallback()
	case f.refused != nil && !f.bounded:
		f.err = f.errLost(0)
	}
}

func (f *Fold) apply(rule *StoredRule, ev *store.Event) (err error) {
	message := rule.New()
	if err := proto.Unmarshal(ev.Payload, message); err != nil {
		return fmt.Errorf("event version %d: %s: %w", ev.Version, ev.Type, err)
	}
	if f.e.opts.Rules.SnapshotEvery > 0 && !f.foreign {
		f.foreign = rule.Foreign(message)
	}
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("event version %d: %w", ev.Version, newPanic(v, "Evolve "+ev.Type))
		}
	}()
	if err := rule.Apply(f.e.opts.Rules.Evolve, f.state, message); err != nil {
		return fmt.Errorf("event version %d: %w", ev.Version, err)
	}
	return nil
}

// Loaded is the input that a load has ended. The error is the store's, or nil.
func (e *Entity) Loaded(f *Fold, err error) {
	if err == nil {
		f.end()
		err = f.err
	}
	switch {
	case errors.Is(err, errHistoryPruned):
		e.historyPruned = true // the phase stays loading: load again
	case err != nil:
		e.loadFailed(err)
	default:
		e.phase = live
		e.retries = 0
		e.state, e.version, e.position, e.snapshot, e.foreign = f.state, f.version, f.position, f.snapshot, f.foreign
		if e.state == nil {
			e.state = e.opts.Rules.NewState()
		}
		e.measure()
		e.resolve()
	}
}

// loadFailed schedules another load if the outcome of a command depends on it. Otherwise it
// answers all calls.
func (e *Entity) loadFailed(err error) {
	if int(e.retries) < e.opts.Limits.LoadRetries && e.hasUncertain() {
		e.retries++
		e.phase = waitingToLoad
		return
	}
	e.phase = cold
	e.retries = 0
	for c := e.waiting.pop(); c != nil; c = e.waiting.pop() {
		e.fail(c, StatusFault, err)
	}
}

func (e *Entity) hasUncertain() bool {
	for c := e.waiting.first; c != nil; c = c.next {
		if c.uncertain {
			return true
		}
	}
	return false
}

// Retry is the input that the pause before another load is over.
func (e *Entity) Retry() {
	if e.phase == waitingToLoad {
		e.phase = loading
	}
}

// resolve answers the uncertain calls that the log holds, and those whose outcome can no longer
// be found out. The other uncertain calls were not stored; they run again.
func (e *Entity) resolve() {
	var list []*Call
	for c := e.waiting.pop(); c != nil; c = e.waiting.pop() {
		list = append(list, c)
	}
	stored := false // a later batch of the same activation is stored, so the earlier one is too
	for _, c := range slices.Backward(list) {
		if c.uncertain && stored {
			c.found = true
		}
		stored = stored || c.uncertain && c.found && c.OutboxSequence == 0
	}
	for _, c := range list {
		hasProof := c.Name != "" || c.OutboxSequence != 0 // a receipt or an outbox message proves the outcome
		unprovable := c.noVersion || (e.historyPruned || e.opts.Rules.Durable) && e.version > c.expected
		switch {
		case c.found && c.OutboxSequence != 0:
			// The log does not show whether this engine's attempt is stored or another
			// engine's.
			e.fail(c, StatusMessageGone, nil)
		case c.found:
			// The outcome was computed when the attempt was decided.
			c.Outcome.Position = c.position
			e.reply(c)
		case c.uncertain && unprovable && !hasProof:
			e.fail(c, StatusUnknown, nil)
		case c.uncertain && c.unknowns > e.opts.Limits.Unknowns:
			e.fail(c, StatusUnknown, nil)
		default:
			c.uncertain = c.uncertain && unprovable
			e.waiting.push(c)
		}
	}
	e.historyPruned = false
}
