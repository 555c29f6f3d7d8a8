package outbox

import (
	"cmp"
	"time"
)

// Limits bound a queue. Messages to entities, timers, and the effects of each type are classes.
// Each class has limits of its own.
type Limits struct {
	// Window is the maximum number of messages of one class in memory, LaneMax of one flow (the
	// queue of messages that keep their order), TargetMax of one target entity. BytesMax bounds
	// the bytes of payload of one class. Further messages wait in the store. Zero means a
	// default for TargetMax and BytesMax.
	Window, FlowMax, TargetMax, BytesMax int
	// PlacesMax is the maximum number of messages of one class of which only the place (due
	// time and sequence) is in memory. These are the messages that wait for another attempt or
	// for another engine; as many again may be there that this engine has no rule for.
	// TargetPlaces is the maximum number of this engine's messages to one entity in memory,
	// with or without their payloads. Zero means a default.
	PlacesMax, TargetPlaces int
	// LeftMax is the maximum number of flows of one class that wait in the store because their
	// next message is one that this engine has no rule for, and there are PlacesMax of these.
	// When LeftMax is reached, the class leaves the next such message, and all later messages,
	// in the store. Zero means a default.
	LeftMax int
	// HaltedMax is the maximum number of halted flows. When it is reached, a message that would
	// halt another flow is tried again and again instead. Zero means a default.
	HaltedMax int
	// InFlight is the maximum number of deliveries of one class at a time. TargetFlight is the
	// maximum for one entity, which may have more while half of InFlight is free. Zero means a
	// default for TargetFlight.
	InFlight, TargetInFlight int
	// Stall is the time after which a delivery to an entity no longer counts against InFlight.
	// An entity that hangs then holds up only itself. Zero means that deliveries always count.
	Stall time.Duration
	// Late is the maximum number of messages that the queue remembers when they are committed
	// during a scan of the store.
	Late int
	// ParkAfter is the time after which a message is parked that this engine has no rule for,
	// or that could not be tried even once. Zero means never.
	ParkAfter time.Duration

	// Owner is the number of this engine on a store that several engines share, and zero on a
	// store with one engine.
	Owner uint64
	// Poll is the time between two reads of a shared store for messages of other engines.
	Poll time.Duration
	// RescueEvery is the time between two reads of all pending messages of a shared store. If a
	// message of another engine stays unchanged for RescueAfter, this engine delivers it,
	// because the other engine may have died.
	RescueEvery, RescueAfter time.Duration
	// Grace bounds the delay, different for each engine and target, for which this engine
	// leaves a message that several engines could deliver to the others.
	Grace time.Duration
}

// Defaults of [Limits].
const (
	bytesMaxDefault = 64 << 20
	placesWindows   = 4 // number of windows that PlacesMax defaults to
	placesShare     = 8 // one entity may use one eighth of the places
)

func (l *Limits) defaults() {
	l.TargetMax = cmp.Or(l.TargetMax, max(l.Window/4, 1))
	l.BytesMax = cmp.Or(l.BytesMax, bytesMaxDefault)
	l.PlacesMax = cmp.Or(l.PlacesMax, placesWindows*l.Window)
	l.LeftMax = cmp.Or(l.LeftMax, l.PlacesMax)
	l.HaltedMax = cmp.Or(l.HaltedMax, placesWindows*l.Window)
	l.TargetPlaces = cmp.Or(l.TargetPlaces, max(l.PlacesMax/placesShare, l.TargetMax))
	l.TargetInFlight = cmp.Or(l.TargetInFlight, max(l.InFlight/8, 1))
}
