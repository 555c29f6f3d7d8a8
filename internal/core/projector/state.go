// Package projector holds the protocol core of projections. It decides which events are handled
// in which transaction, and which notes are stored with them. A note is the record of a segment's
// progress in the target.
package projector

import (
	"time"

	"github.com/perdure/perdure/store"
)

// A State is the note of a segment: its position and its counts, as stored in the target.
type State struct {
	// Position is the position up to which the read model holds all events of the segment, except
	// the missing events of parked entities.
	Position store.Position
	// Revision increases by one with every change of the segment's notes.
	Revision uint64
	// At is the id of the event at Position, or zero if the id is not known.
	At store.ID
	// EffectsAfter and EffectEdges are the stored form of the effects, see [State.Effects].
	// Without EffectEdges the segment owns the effects of all events above EffectsAfter and of no
	// others.
	EffectsAfter store.Position
	EffectEdges  string
	// Writer is the id of the runner that wrote the note.
	Writer store.ID
	// Parked is the number of parked entities, Dead the number of dead letters.
	Parked, Dead int
}

// A Parked is the note of a parked entity. The read model misses the entity's events from
// Version on.
type Parked struct {
	Key      store.Key
	Version  store.Version
	Position store.Position
	Type     string
	Error    string
	Attempts int
	Time     time.Time
}

// A DeadLetter records events of an entity that are left out permanently: the event at Version,
// or all events from there up to the position Through.
type DeadLetter struct {
	Key      store.Key
	Version  store.Version
	Position store.Position
	Through  store.Position
	Type     string
	Error    string
	Attempts int
	Time     time.Time
}

// A Chunk is a batch of events that a reader has read for the segment: every event of the segment
// above After and at or below Through. At is the id of the event at Through, or zero if it is
// not known.
type Chunk struct {
	After, Through store.Position
	At             store.ID
	Events         []store.Event
}

// An Attempt is one transaction. It compares the segment's note with Old, handles the events
// except those of parked entities, and stores the notes. If the note is not equal to Old, it
// must do nothing and return [Moved].
type Attempt struct {
	Old, New State
	// Events are handled in order. The first has the number 0.
	Events []store.Event
	// Parked are the entities to pass over. The runner must not change the map.
	Parked map[store.Key]*Parked
	// Park is a note to store: an entity is parked, or its first missing event has moved on.
	// Unpark, if not zero, is the entity whose note is removed. Dead is a dead letter to store.
	Park   *Parked
	Unpark store.Key
	Dead   *DeadLetter
	// Replaying is true if the segment does not own the effects of the events.
	Replaying bool
	// Taken are the segments of the serving version from which the attempt takes effects over.
	// Most attempts have none. Like the segment's own note, their notes are compared with Old, and
	// New is stored. Serving is the number of that version. If it no longer serves, the attempt
	// must do nothing and return [Moved].
	Taken   []Taken
	Serving int
}

// A Taken is a segment of the serving version that gives effects away.
type Taken struct {
	Segment  int
	Old, New State
}

// A Result is the result of an attempt.
type Result uint8

// The results of an attempt.
const (
	// Stored: the whole attempt is durable.
	Stored Result = iota
	// Failed: a handler has failed; the target stores nothing.
	Failed
	// Refused: the target has reported an error, and nothing is stored for certain.
	Refused
	// Unknown: the target has failed, and may have stored it all the same.
	Unknown
	// Moved: the note was different from Old; nothing is stored.
	Moved
)

// An Outcome is the result of an attempt, with its cause.
type Outcome struct {
	Result Result
	Err    error
	// From and To bound the range of events in which a handler has failed at one.
	From, To int
	// Hopeless is true if another attempt would not help.
	Hopeless bool
}

// A Failure is the policy for an event at which a handler fails for good.
type Failure uint8

// The policies for failures.
const (
	// Park skips the entity from that event on, until an operator retries it.
	Park Failure = iota
	// Skip leaves the event out.
	Skip
	// Stop stops the projection.
	Stop
)

// A Policy is the failure policy of a segment.
type Policy struct {
	OnFailure Failure
	// AttemptsMax is the number of attempts for one event, including the first.
	AttemptsMax int
	// BackoffMin is the pause after the first failure. Each further failure doubles the pause,
	// up to BackoffMax.
	BackoffMin, BackoffMax time.Duration
}

// Limits bound a segment.
type Limits struct {
	// Batch is the maximum number of events in one attempt.
	Batch int
	// Parked and Dead bound the parked entities and the dead letters.
	Parked, Dead int
	// FlushEvents and FlushAfter bound the positions and the time after which the segment stores a
	// position that has moved only over events that it does not want.
	FlushEvents uint64
	FlushAfter  time.Duration
	// RetryMin and RetryMax bound the pauses after the target has failed.
	RetryMin, RetryMax time.Duration
	// StandbyMin and StandbyMax bound the pauses while another runner is at work.
	StandbyMin, StandbyMax time.Duration
	// HoldMin and HoldMax bound the pauses of a segment that waits for the version that serves.
	// That version must have stood still for TakeAfter before the segment takes its effects over
	// for waiting callers, see [Segment.Demand].
	HoldMin, HoldMax time.Duration
	TakeAfter        time.Duration
	// Segment is the number of this segment, from 0, and Segments the number of segments.
	Segment, Segments int
}

// A Phase is the present activity of a segment, for operators.
type Phase uint8

// The phases of a segment.
const (
	// Loading: the segment has not read its position yet.
	Loading Phase = iota
	// Running: the segment handles events, or waits for new ones.
	Running
	// Retrying: a handler or the target has failed; the segment will try again.
	Retrying
	// Standby: another runner is at work.
	Standby
	// Holding: the segment waits because the version that serves has not handled the next event
	// yet.
	Holding
	// Stopped: the segment needs an operator.
	Stopped
)
