// Package project holds the protocol core of projections: which events are
// handled in which transaction, and what is noted with them.
package project

import (
	"time"

	"github.com/perdure/perdure/store"
)

// A State is the note of a lane.
type State struct {
	// Position: everything of the lane up to here is in the read model, but for
	// what is missing of parked entities.
	Position store.Position
	// Revision grows by one with every change of the lane's notes.
	Revision uint64
	// At is the id of the event at Position; zero if it is not known.
	At store.ID
	// Latched and Edges are the latch, see [State.Latch]. Without Edges the effects
	// of all events above Latched are the lane's own, and of no others.
	Latched store.Position
	Edges   string
	// Writer is who has written the note.
	Writer store.ID
	// Parked counts the parked entities, Dead the dead letters.
	Parked, Dead int
}

// A Parked entity misses its events from a version on.
type Parked struct {
	Key      store.Key
	Version  store.Version
	Position store.Position
	Type     string
	Error    string
	Attempts int
	Time     time.Time
}

// A DeadLetter says which events of an entity are left out for good: one, or
// all up to the position Through.
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

// A Chunk is a run of events that a reader has got for the lane: all that the
// lane is to handle above After, through Through. At is the id of the event at
// Through, zero if it is not known.
type Chunk struct {
	After, Through store.Position
	At             store.ID
	Events         []store.Event
}

// An Attempt is one transaction. It compares the lane's note with Old, handles
// the events but those of parked entities, and stores the notes. If the note is
// not Old it must do nothing and say [Moved].
type Attempt struct {
	Old, New State
	// Events are handled in order, the first of them is number 0.
	Events []store.Event
	// Parked are the entities to pass over. It must not be changed.
	Parked map[store.Key]*Parked
	// Park is stored: an entity is parked, or has moved on. Unpark is removed,
	// if it is not zero. Dead is stored.
	Park   *Parked
	Unpark store.Key
	Dead   *DeadLetter
	// Replaying is true if the effects of the events are not the lane's to do.
	Replaying bool
	// Taken are the lanes of the version that serves from which the attempt takes
	// effects over; none in most attempts. Like the lane's own note, their notes are
	// compared with Old, and New is stored. Serving is that version: if it serves no
	// more, the attempt must do nothing and say [Moved].
	Taken   []Taken
	Serving int
}

// A Taken is a lane of the serving version that gives effects away.
type Taken struct {
	Lane     int
	Old, New State
}

// A Result is what became of an attempt.
type Result uint8

// The results of an attempt.
const (
	// Stored: all of it is durable.
	Stored Result = iota
	// Failed: a handler has failed; nothing is stored.
	Failed
	// Refused: the target says for certain that nothing is stored.
	Refused
	// Unknown: the target has failed, and may have stored it all the same.
	Unknown
	// Moved: the note was another one; nothing is stored.
	Moved
)

// An Outcome is what became of an attempt, and why.
type Outcome struct {
	Result Result
	Err    error
	// From and To bound the events one of which a handler has failed at.
	From, To int
	// Hopeless says that trying again would not help.
	Hopeless bool
}

// A Failure says what to do with an event that its handler fails at.
type Failure uint8

// The policies for failures.
const (
	// Park leaves the entity alone from that event on.
	Park Failure = iota
	// Skip leaves the event out.
	Skip
	// Stop stops the projection.
	Stop
)

// A Policy says how a lane deals with failures.
type Policy struct {
	OnFailure Failure
	// AttemptsMax is how often an event is tried in all.
	AttemptsMax int
	// BackoffMin is the pause after the first failure. Each further one doubles
	// it, up to BackoffMax.
	BackoffMin, BackoffMax time.Duration
}

// Limits bound a lane.
type Limits struct {
	// Batch is how many events an attempt has at most.
	Batch int
	// Parked and Dead bound the parked entities and the dead letters.
	Parked, Dead int
	// FlushEvents and FlushAfter say when a position is noted that has moved
	// over nothing but what the lane does not want.
	FlushEvents uint64
	FlushAfter  time.Duration
	// RetryMin and RetryMax bound the pauses after the target has failed.
	RetryMin, RetryMax time.Duration
	// StandbyMin and StandbyMax bound the pauses while another runner is at work.
	StandbyMin, StandbyMax time.Duration
	// HoldMin and HoldMax bound the pauses of a lane that waits for the version that
	// serves. TakeAfter is how long that one must have stood still before the lane
	// takes its effects over for those who wait, see [Lane.Demand].
	HoldMin, HoldMax time.Duration
	TakeAfter        time.Duration
	// Lane and Lanes say which of how many lanes it is.
	Lane, Lanes int
}

// A Phase is what a lane is doing, for people.
type Phase uint8

// The phases of a lane.
const (
	// Loading: it does not know where it is yet.
	Loading Phase = iota
	// Running: it handles events, or waits for some.
	Running
	// Retrying: a handler or the target has failed; it will be tried again.
	Retrying
	// Standby: another runner is at work.
	Standby
	// Holding: it waits for the version that serves, which has not handled yet what
	// comes next.
	Holding
	// Stopped: it needs somebody's help.
	Stopped
)
