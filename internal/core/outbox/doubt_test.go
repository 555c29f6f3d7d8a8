package outbox_test

import (
	"errors"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/core/outbox"
	"github.com/perdure/perdure/store"
)

// A strict shell has flows that keep their order.
type strict struct{ calm }

func (strict) Policy(*store.Message) outbox.Policy {
	return outbox.Policy{AttemptsMax: 1, BackoffMin: time.Second, BackoffMax: time.Second, KeepOrder: true}
}

// TestHaltInDoubt checks that a flow goes on after an operator has dropped its halted message,
// even if the outcomes of both commits were unknown.
func TestHaltInDoubt(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	q := outbox.New(strict{}, outbox.Limits{Window: 8, FlowMax: 8, InFlight: 8, Late: 8})
	s := shelf{}
	s.turn(q, now)
	list := from("effect", 1, 1, now)
	q.Committed(list, now)
	q.Finished(q.Next(now), outbox.Never, errors.New("no"), now)
	q.Unsettled(q.Settlements(1)) // the store has halted the message, and reports an error
	q.OutcomeUnknown()            // an operator has dropped the message, and the store reports an error
	// The settlement is stored again, and changes nothing, because the message is gone.
	scan := func() {
		if q.WantsScan(now) {
			q.ScanBegins()
			q.ScanEnded(time.Time{}, false, now)
		}
	}
	scan()
	q.Settled(q.Settlements(1))
	for _, r := range q.Fetches(10) {
		q.Fetched(r, nil, false, now)
	}
	scan()
	second := from("effect", 2, 1, now)
	q.Committed(second, now)
	if r := q.Next(now); r == nil || r.Message.Sequence != 2 {
		t.Errorf("after the drop of message 1: got %v to deliver, want message 2", r)
	}
}
