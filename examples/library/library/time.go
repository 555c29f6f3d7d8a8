package library

import (
	"math"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// The functions below calculate with seconds and nanoseconds because a time.Duration is limited
// to 292 years, and libraries have lent books for longer.

func before(a, b *timestamppb.Timestamp) bool {
	return a.GetSeconds() < b.GetSeconds() || a.GetSeconds() == b.GetSeconds() && a.GetNanos() < b.GetNanos()
}

// between returns the time from a to b. B must not be before a.
func between(a, b *timestamppb.Timestamp) *durationpb.Duration {
	return normal(b.GetSeconds()-a.GetSeconds(), b.GetNanos()-a.GetNanos())
}

// later returns the time that is d after t; a nil d counts as zero.
func later(t *timestamppb.Timestamp, d *durationpb.Duration) *timestamppb.Timestamp {
	s := normal(t.GetSeconds()+d.GetSeconds(), t.GetNanos()+d.GetNanos())
	return &timestamppb.Timestamp{Seconds: s.GetSeconds(), Nanos: s.GetNanos()}
}

func sum(a, b *durationpb.Duration) *durationpb.Duration {
	return normal(a.GetSeconds()+b.GetSeconds(), a.GetNanos()+b.GetNanos())
}

// normal returns a duration with nanoseconds from 0 to 999,999,999.
func normal(seconds int64, nanos int32) *durationpb.Duration {
	switch {
	case nanos >= int32(time.Second):
		seconds, nanos = seconds+1, nanos-int32(time.Second)
	case nanos < 0:
		seconds, nanos = seconds-1, nanos+int32(time.Second)
	}
	return &durationpb.Duration{Seconds: seconds, Nanos: nanos}
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

// Day formats a time in UTC: the date alone if the time is midnight, RFC 3339 otherwise.
func Day(t time.Time) string {
	t = t.UTC()
	if t.Equal(t.Truncate(24 * time.Hour)) {
		return t.Format(time.DateOnly)
	}
	return t.Format(time.RFC3339)
}
