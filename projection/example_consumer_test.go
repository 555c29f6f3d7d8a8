package projection_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store/memory"
)

// A consumer calls a handler for each event and keeps its position in the log. If the handler
// cannot handle an event, the entity of the event is parked and the others go on.
func ExampleConsume() {
	ctx := context.Background()
	log := memory.New()
	for _, id := range []string{"ada", "bob", "eve"} {
		mustDeposit(log, id, 5)
	}
	mails := projection.Consume("mails", projection.Handle(func(_ context.Context, e projection.Event[*testv1.Deposited]) error {
		if e.Key.ID == "bob" {
			return errors.New("no such address")
		}
		fmt.Printf("mail to %s: %d were deposited\n", e.Key.ID, e.Message.GetAmount())
		return nil
	})).With(projection.Parallelism(1), projection.Retry(projection.RetryPolicy{MaxAttempts: 3, MaxBackoff: time.Millisecond}))

	// In a program with an engine: projection.Service(runner).
	runner := mails.Into(projection.InLog(log))
	if err := projection.RunOnce(ctx, projection.Config{Log: log}, runner); err != nil {
		panic(err)
	}
	for p, err := range runner.Parked(ctx) {
		if err != nil {
			panic(err)
		}
		fmt.Printf("%v is parked from event %d on: %s\n", p.Key, p.Version, p.Error)
	}
	// Output:
	// mail to ada: 5 were deposited
	// mail to eve: 5 were deposited
	// account/bob is parked from event 1 on: no such address
}
