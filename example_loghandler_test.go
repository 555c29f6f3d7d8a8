package perdure_test

import (
	"context"
	"log/slog"
	"os"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// What a rule logs names its entity and its conversation.
func ExampleLogHandler() {
	text := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == "command" { // they differ in each run
			return slog.Attr{}
		}
		return a
	}})
	log := slog.New(perdure.LogHandler(text))
	accounts := perdure.EventSourced("account",
		perdure.Decide(func(ctx context.Context, a *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
			log.InfoContext(ctx, "deposit", "amount", c.GetAmount(), "before", a.GetBalance())
			return perdure.Persist(&testv1.Deposited{Amount: c.GetAmount()}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount() }),
	)
	ctx := context.Background()
	engine, err := perdure.Open(ctx, perdure.Config{Store: memory.New(), Kinds: []perdure.AnyKind{accounts}})
	if err != nil {
		panic(err)
	}
	_, err = accounts.Ref(engine, "ada").Do(ctx, &testv1.Deposit{Amount: 10},
		perdure.WithMetadata(store.Metadata{CorrelationID: "checkout-4711"}))
	if err != nil {
		panic(err)
	}
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}
	// Output: level=INFO msg=deposit entity=account/ada correlation=checkout-4711 amount=10 before=0
}
