package perdure

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/store"
)

// A Recurrence is the schedule of a recurring timer; see [Decision.Every]. Make one with
// [Period] or [Daily].
type Recurrence struct {
	spec string // text form, which the outbox stores
	next entity.Recurrence
	err  error
}

// periodMin is the shortest time between two firings of a recurring timer.
const periodMin = time.Millisecond

// Period is a recurrence with a fixed time between two firings, such as an hour. It does
// not depend on time zones or on changes of the clock. The first firing is one period
// after the decision. The period is at least a millisecond.
func Period(d time.Duration) Recurrence {
	if d < periodMin {
		return Recurrence{err: fmt.Errorf("%w: Period(%v) is shorter than %v", store.ErrInvalid, d, periodMin)}
	}
	return Recurrence{spec: d.String(), next: period(d)}
}

type period time.Duration

// Next is part of [entity.Recurrence].
func (p period) Next(after time.Time) time.Time { return after.Add(time.Duration(p)) }

// Daily is a recurrence at a time of day in a time zone, such as 9:30 in Europe/Berlin.
// It fires once on each date of the zone, also when clocks change. A time that comes
// twice fires once. A time that is skipped, such as 2:30 where 3:00 follows 2:00, fires
// later by the time skipped, here at 3:30, or earlier by as much if later is another date.
// A date that the zone skips has no firing. A nil zone is UTC. The zone must be one of the
// IANA database, so that [time.LoadLocation] finds it by its name on every machine that
// runs the engine; [time.Local] and zones of [time.FixedZone] are not.
func Daily(hour, minute int, zone *time.Location) Recurrence {
	if zone == nil {
		zone = time.UTC
	}
	if hour < 0 || hour > 23 || minute < 0 || minute > 59 {
		return Recurrence{err: fmt.Errorf("%w: Daily(%d, %d) is no time of day", store.ErrInvalid, hour, minute)}
	}
	name := zone.String()
	if name == "Local" {
		return Recurrence{err: fmt.Errorf("%w: Daily in time.Local: load the zone by its name with time.LoadLocation", store.ErrInvalid)}
	}
	switch known, err := time.LoadLocation(name); {
	case err != nil:
		return Recurrence{err: fmt.Errorf("%w: Daily in the zone %q: %w", store.ErrInvalid, name, err)}
	case !sameZone(known, zone):
		return Recurrence{err: fmt.Errorf("%w: Daily in a zone that is named %q and is another one than that of the IANA database: load it with time.LoadLocation",
			store.ErrInvalid, name)}
	}
	return Recurrence{spec: fmt.Sprintf("daily %02d:%02d %s", hour, minute, name), next: daily{hour, minute, name}}
}

type daily struct {
	Hour, Minute int
	Zone         string
}

// Next is part of [entity.Recurrence].
func (d daily) Next(after time.Time) time.Time {
	zone, err := time.LoadLocation(d.Zone)
	if err != nil {
		zone = time.UTC // the zone existed when the recurrence was made
	}
	year, month, day := after.In(zone).Date()
	for n := 0; ; n++ {
		if t, ok := d.on(year, month, day+n, zone); ok && t.After(after) {
			return t.UTC()
		}
	}
}

// on returns the firing time on a date of the zone, or false if the zone skips that date.
func (d daily) on(year int, month time.Month, day int, zone *time.Location) (time.Time, bool) {
	t := time.Date(year, month, day, d.Hour, d.Minute, 0, 0, zone)
	clock := time.Date(year, month, day, d.Hour, d.Minute, 0, 0, time.UTC)
	shown := time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), 0, 0, time.UTC)
	if shown.Equal(clock) {
		return t, true
	}
	// Clocks skip that time, and t is on one side of the gap.
	start, end := t.ZoneBounds()
	if shown.Before(clock) {
		start = end
	}
	for _, side := range []time.Time{start.Add(-1), start} {
		_, offset := side.Zone()
		t = clock.Add(-time.Duration(offset) * time.Second).In(zone)
		if t.Day() == clock.Day() {
			return t, true
		}
	}
	return t, false
}

// sameZone reports whether two zones agree on the time in winter and in summer.
func sameZone(a, b *time.Location) bool {
	for _, month := range []time.Month{time.January, time.July} {
		t := time.Date(2020, month, 1, 0, 0, 0, 0, time.UTC)
		_, x := t.In(a).Zone()
		_, y := t.In(b).Zone()
		if x != y {
			return false
		}
	}
	return true
}

// parseRecurrence returns the recurrence with the text form spec.
func parseRecurrence(spec string) (Recurrence, error) {
	if rest, ok := strings.CutPrefix(spec, "daily "); ok {
		var hour, minute int
		var name string
		if _, err := fmt.Sscanf(rest, "%02d:%02d %s", &hour, &minute, &name); err != nil {
			return Recurrence{}, fmt.Errorf("recurrence %q: %w", spec, err)
		}
		zone, err := time.LoadLocation(name)
		if err != nil {
			return Recurrence{}, fmt.Errorf("recurrence %q: %w", spec, err)
		}
		r := Daily(hour, minute, zone)
		return r, r.err
	}
	d, err := time.ParseDuration(spec)
	if err != nil {
		return Recurrence{}, fmt.Errorf("recurrence %q: %w", spec, err)
	}
	r := Period(d)
	return r, r.err
}

// following returns the next firing time of a timer that was due at due. All times that have
// passed by now together make one firing.
func (r Recurrence) following(due, now time.Time) time.Time {
	switch {
	case due.IsZero():
		due = now // the store kept no due time, see [store.Message]
	case now.Before(due):
		now = due // the clock was set back
	}
	if p, ok := r.next.(period); ok {
		d := time.Duration(p)
		passed := int64(now.Sub(due) / d)
		return due.Add(time.Duration(passed+1) * d)
	}
	return r.next.Next(now)
}

// nextTimer returns the message for the next firing of a recurring timer that fires now.
func nextTimer(m *store.Message, now time.Time) (*store.Message, error) {
	r, err := parseRecurrence(m.Every)
	if err != nil {
		return nil, err
	}
	next := *m
	next.Due = entity.DueTime(r.following(m.Due, now))
	next.ID = entity.DerivedID(m.ID, uint64(next.Due.UnixNano()))
	next.Sequence, next.Attempts, next.LastError, next.Parked, next.Owner, next.Open = 0, 0, "", false, 0, false
	next.Source, next.Time = store.Key{}, time.Time{}
	return &next, nil
}

// Every sets a recurring timer: the entity gets the command at each firing, each time
// exactly once, until the timer is cancelled or a timer of the same name is set. The
// timer is part of the commit and as durable as the events, like that of
// [Decision.Schedule]:
//
//	perdure.None().Every("interest", perdure.Daily(0, 5, berlin), &bankv1.AddInterest{})
//	perdure.None().Every("sample", perdure.Period(time.Minute), &plantv1.Sample{})
//
// The commit in which the command is decided sets the next firing, also if the entity
// refuses the command. If no engine was running for a while, the timer fires once for
// all missed firings, and then continues on its schedule. If the rule fails, the command
// is retried like any message, and the next firing waits for it. If the message is
// parked in the end, the timer stops until [Engine.Unpark]. The rule may cancel the
// timer or set it again; its decision takes precedence.
func (d *Decision) Every(name string, r Recurrence, command proto.Message) *Decision {
	l := d.left()
	l.Messages = append(l.Messages, entity.Message{
		Message: command, Command: true, Self: true, Timed: true, Timer: name,
		Every: r.spec, First: r.next, Err: r.invalid(name),
	})
	return d
}

// invalid returns an error if a recurrence is invalid, or nil.
func (r Recurrence) invalid(name string) error {
	switch {
	case r.err != nil:
		return r.err
	case r.next == nil:
		return fmt.Errorf("%w: the recurrence of timer %q is empty: make one with Period or Daily", store.ErrInvalid, name)
	case name == "":
		return fmt.Errorf("%w: a recurring timer has no name", store.ErrInvalid)
	}
	return nil
}

// Every is like [Decision.Every].
func (c *Change) Every(name string, r Recurrence, command proto.Message) *Change {
	(*Decision)(c).Every(name, r, command)
	return c
}
