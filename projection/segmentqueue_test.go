package projection

import (
	"testing"

	"github.com/perdure/perdure/store"
)

func TestSegmentQueueGivesWhatWasPutSinceItWasOpened(t *testing.T) {
	t.Parallel()
	var seen seen
	f := newSegmentQueue(2, &seen)
	put := func(p store.Position, want bool) {
		t.Helper()
		ready, err := f.put(t.Context(), &store.Event{Position: p, Tags: []string{"x"}, Payload: []byte{byte(p)}})
		if err != nil || ready != want {
			t.Errorf("put %v reports %t, %v", p, ready, err)
		}
		seen.set(p, store.ID{byte(p)})
	}
	take := func(after, through store.Position, events int) {
		t.Helper()
		c, ok := f.take()
		if !ok || c.After != after || c.Through != through || len(c.Events) != events {
			t.Errorf("took %v to %v with %d events, %t; want %v to %v with %d", c.After, c.Through, len(c.Events), ok, after, through, events)
		}
	}
	none := func() {
		t.Helper()
		if c, ok := f.take(); ok || f.ready() {
			t.Errorf("took %v to %v", c.After, c.Through)
		}
	}
	put(1, false) // the segmentQueue is closed
	none()
	f.open(0)
	seen.set(0, store.ID{})
	none()
	put(1, false) // too few
	none()
	if !f.mode(true) || f.mode(true) {
		t.Error("the segment is told when it may take what is there, once")
	}
	take(0, 1, 1)
	seen.set(5, store.ID{}) // no event up to here is selected
	take(1, 5, 0)
	none()
	put(4, false) // it was put before
	put(6, true)
	f.shut()
	none()
	put(7, false)
	seen.set(2, store.ID{})
	f.open(2) // as if the segment were far behind
	none()
	put(3, true)
	take(2, 3, 1)
	f.mode(false)
}
