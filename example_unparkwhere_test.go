package perdure_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// A mail server was down, so some mails are parked. After its repair, an operator unparks
// the mails that failed because of it, and the engine delivers them.
func ExampleEngine_UnparkWhere() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	attempts, mails, isDown := make(chan string), make(chan string), true
	kind := perdure.EventSourced("customer",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Open) (*perdure.Decision, error) {
			return perdure.None().Enqueue(&testv1.Note{Text: "Welcome, " + c.GetOwner()}), nil
		}),
		perdure.Evolve(func(*testv1.Account, *testv1.Opened) {}),
	)
	engine, err := perdure.Open(ctx, perdure.Config{
		Store: memory.New(), Kinds: []perdure.AnyKind{kind}, Logger: slog.New(slog.DiscardHandler),
		Effects: []perdure.EffectRule{perdure.Perform(func(_ context.Context, m *testv1.Note) error {
			if isDown {
				attempts <- m.GetText()
				return errors.New("connection refused")
			}
			mails <- m.GetText()
			return nil
		}, perdure.RetryPolicy{MaxAttempts: 1})},
	})
	if err != nil {
		panic(err)
	}
	if _, err := kind.Ref(engine, "1").Do(ctx, &testv1.Open{Owner: "Ada"}); err != nil {
		panic(err)
	}
	<-attempts
	isDown = false

	unparked := 0
	for unparked == 0 { // the message is parked soon after its attempt
		n, err := engine.UnparkWhere(ctx, func(m *store.Message) bool {
			return m.Type == "perdure.test.v1.Note" && strings.Contains(m.LastError, "connection refused")
		})
		if err != nil {
			panic(err)
		}
		unparked += n
	}
	fmt.Println(<-mails)
	fmt.Println("unparked:", unparked)
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}
	// Output:
	// Welcome, Ada
	// unparked: 1
}
