package library

import (
	"math"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// The functions below calculate with seconds and nanoseconds because a time.Duration is
// limited to 292 years, and libraries have lent books for longer.

func before(a, b *timestamppb.Timestamp) bool {
	return a.GetSeconds() < b.GetSeconds() || a.GetSeconds() == b.GetSeconds() && a.GetNanos() < b.GetNanos()
}

// between returns the time from a to b. B must not be before a.
func between(a, b *timestamppb.Timestamp) *durationpb.Duration {
	return sum(
		&durationpb.Duration{Seconds: b.GetSeconds(), Nanos: b.GetNanos()},
		&durationpb.Duration{Seconds: -a.GetSeconds(), Nanos: -a.GetNanos()},
	)
}

// later returns the time that is d after t; a nil d counts as zero.
func later(t *timestamppb.Timestamp, d *durationpb.Duration) *timestamppb.Timestamp {
	s := sum(&durationpb.Duration{Seconds: t.GetSeconds(), Nanos: t.GetNanos()}, d)
	return &timestamppb.Timestamp{Seconds: s.GetSeconds(), Nanos: s.GetNanos()}
}

// sum returns a + b, with nanoseconds that are not negative.
func sum(a, b *durationpb.Duration) *durationpb.Duration {
	s := &durationpb.Duration{Seconds: a.GetSeconds() + b.GetSeconds(), Nanos: a.GetNanos() + b.GetNanos()}
	switch {
	case s.GetNanos() >= int32(time.Second):
		s.Seconds, s.Nanos = s.Seconds+1, s.Nanos-int32(time.Second)
	case s.GetNanos() < 0:
		s.Seconds, s.Nanos = s.Seconds-1, s.Nanos+int32(time.Second)
	}
	return s
}

// timerAt returns the time at which a timer for t fires: a log keeps the times of timers in
// nanoseconds, which are limited to the years 1677 to 2262.
func timerAt(t *timestamppb.Timestamp) time.Time {
	at, first, last := t.AsTime(), time.Unix(0, math.MinInt64), time.Unix(0, math.MaxInt64)
	switch {
	case at.Before(first):
		return first
	case at.After(last):
		return last
	}
	return at
}

// day formats a time like [Day].
func day(t *timestamppb.Timestamp) string { return Day(t.AsTime()) }

// Day formats a time in UTC for people: the date alone if it is midnight, RFC 3339
// otherwise.
func Day(t time.Time) string {
	t = t.UTC()
	if t.Equal(t.Truncate(24 * time.Hour)) {
		return t.Format(time.DateOnly)
	}
	return t.Format(time.RFC3339)
}
