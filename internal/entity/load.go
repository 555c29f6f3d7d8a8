package entity

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/canary"
	"github.com/perdure/perdure/store"
)

// errBlind ends a load that has passed over a snapshot to find out what became
// of commands in doubt, and found that the events below it have been deleted.
var errBlind = errors.New("events below the snapshot are gone")

// A Fold builds the state of an entity from what the store holds. It belongs to
// one load.
type Fold struct {
	e        *Entity
	state    proto.Message
	version  store.Version
	position store.Position
	snapshot store.Version

	doubted map[store.ID]*Call
	oldest  store.Version // expected version of the oldest call in doubt
	passed  bool          // a snapshot was passed over for the sake of doubt
	until   store.Version // the last version that is wanted
	bounded bool          // nothing behind it is
	err     error
}

// ErrEnough is what [Fold.Apply] returns behind the last version that is wanted.
var ErrEnough = errors.New("enough")

// Until returns a fold that ends at a version, for reading what was.
func (e *Entity) Until(version store.Version) *Fold {
	return &Fold{e: e, until: version, bounded: true}
}

// State returns the state that the fold has built, or an error if it is not the
// one of the last version that is wanted.
func (f *Fold) State() (proto.Message, error) {
	switch {
	case f.err != nil:
		return nil, f.err
	case f.version != f.until:
		return nil, fmt.Errorf("the events of version %d are no longer there", f.until)
	case f.state == nil:
		return f.e.opts.Rules.NewState(), nil
	}
	return f.state, nil
}

// Position returns that of the last event that the fold has met, or of its state.
func (f *Fold) Position() store.Position { return f.position }

// Load begins a load and returns the fold that takes what is read.
func (e *Entity) Load() *Fold {
	f := &Fold{e: e}
	if e.blind {
		return f
	}
	for c := e.waiting.first; c != nil; c = c.next {
		if !c.uncertain {
			continue
		}
		if f.doubted == nil {
			f.doubted = make(map[store.ID]*Call)
			f.oldest = c.expected
		}
		f.doubted[c.ID] = c
		f.oldest = min(f.oldest, c.expected)
	}
	return f
}

// Accept takes the saved state or the latest snapshot, or returns false where
// the fold cannot begin with it.
func (f *Fold) Accept(s *store.State) bool {
	rules := f.e.opts.Rules
	if !rules.Durable {
		if s.Fingerprint != rules.Fingerprint && !canary.Broken("snapshot-fingerprint-ignored") || s.Type != rules.StateType {
			return false
		}
		if f.bounded && s.Version > f.until {
			return false
		}
		if f.doubted != nil && s.Version > f.oldest {
			f.passed = true
			return false
		}
	}
	state := rules.NewState()
	err := proto.Unmarshal(s.Payload, state)
	if err == nil && s.Type != rules.StateType {
		err = fmt.Errorf("stored state is a %s, the kind has %s", s.Type, rules.StateType)
	}
	if err != nil {
		if rules.Durable {
			f.err = fmt.Errorf("state version %d: %w", s.Version, err)
		}
		return false
	}
	f.state, f.version, f.position = state, s.Version, s.Position
	if !rules.Durable {
		f.snapshot = s.Version
		return true
	}
	if c := f.doubted[s.Metadata.CausationID]; c != nil {
		c.found = true
	}
	return true
}

// Apply folds the next event. It does not keep ev.
func (f *Fold) Apply(ev *store.Event) error {
	if f.err != nil {
		return f.err
	}
	if f.bounded && ev.Version > f.until {
		return ErrEnough
	}
	if ev.Version != f.version+1 {
		if f.passed {
			return errBlind
		}
		return &store.CorruptError{
			What: "history", Key: f.e.Key(), Version: f.version + 1,
			Reason: fmt.Sprintf("the next event has version %d", ev.Version),
		}
	}
	rule := f.e.opts.Rules.Stored[ev.Type]
	if rule == nil {
		return fmt.Errorf("event version %d: stored type %s has neither an Evolve rule nor an Upcast", ev.Version, ev.Type)
	}
	if f.state == nil {
		f.state = f.e.opts.Rules.NewState()
	}
	if err := f.apply(rule, ev); err != nil {
		return err
	}
	f.version, f.position = ev.Version, ev.Position
	if f.doubted != nil {
		if c := f.doubted[ev.Metadata.CausationID]; c != nil {
			c.found, c.position = true, ev.Position
		}
	}
	return nil
}

func (f *Fold) apply(rule *StoredRule, ev *store.Event) (err error) {
	message := rule.New()
	if err := proto.Unmarshal(ev.Payload, message); err != nil {
		return fmt.Errorf("event version %d: %s: %w", ev.Version, ev.Type, err)
	}
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("event version %d: %w", ev.Version, newPanic(v, "Evolve "+ev.Type))
		}
	}()
	if rule.Upcast != nil {
		message = rule.Upcast(message)
	}
	rule.Evolve.Apply(f.state, message)
	return nil
}

// Loaded is the input that a load has ended.
func (e *Entity) Loaded(f *Fold, err error) {
	if err == nil {
		err = f.err
	}
	switch {
	case errors.Is(err, errBlind):
		e.blind = true // and load again
	case err != nil:
		e.loadFailed(err)
	default:
		e.phase = live
		e.retries = 0
		e.state, e.version, e.position, e.snapshot = f.state, f.version, f.position, f.snapshot
		if e.state == nil {
			e.state = e.opts.Rules.NewState()
		}
		e.resolve()
	}
}

// loadFailed tries again later if the truth about a command depends on it, and
// answers all calls otherwise.
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

// resolve answers the calls in doubt that the log holds, and those that can no
// longer be found out; the others have not happened and run again.
func (e *Entity) resolve() {
	var list []*Call
	for c := e.waiting.pop(); c != nil; c = e.waiting.pop() {
		list = append(list, c)
	}
	stored := false // a later batch of the same copy is stored, so this one is
	for _, c := range slices.Backward(list) {
		if c.uncertain && stored {
			c.found = true
		}
		stored = stored || c.uncertain && c.found && c.Row == 0
	}
	for _, c := range list {
		traced := c.Name != "" || c.Row != 0 // a receipt or a message tells
		untold := c.silent || (e.blind || e.opts.Rules.Durable) && e.version > c.expected
		switch {
		case c.found && c.Row != 0:
			// Whether it was this engine's attempt that is stored, or another's,
			// does not show.
			e.fail(c, StatusSettled, nil)
		case c.found && !canary.Broken("stored-command-run-again"):
			// The outcome is the one of the attempt, made when it was decided.
			c.Outcome.Position = c.position
			e.reply(c)
		case c.uncertain && untold && !traced:
			e.fail(c, StatusUnknown, nil)
		default:
			c.uncertain = c.uncertain && untold
			e.waiting.push(c)
		}
	}
	e.blind = false
}
