package bench_test

import (
	"context"
	"strings"
	"testing"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// accounts are durable-state entities. A deposit changes a number of the state.
var accounts = perdure.DurableState("accounts",
	perdure.Update(func(_ context.Context, a *testv1.Account, c *testv1.Annotate) (*perdure.Change, error) {
		a.Notes = append(a.Notes, c.GetNote())
		return perdure.Save(), nil
	}),
	perdure.Update(func(_ context.Context, a *testv1.Account, c *testv1.Deposit) (*perdure.Change, error) {
		a.Balance += c.GetAmount()
		return perdure.Save(), nil
	}),
)

// BenchmarkHotState sends commands to one durable-state entity, whose state has 8 kB in 128
// parts.
func BenchmarkHotState(b *testing.B) {
	logs := map[string]func(*testing.B) store.Log{
		"bbolt":  func(b *testing.B) store.Log { return openBolt(b) },
		"memory": func(*testing.B) store.Log { return memory.New() },
	}
	for name, open := range logs {
		b.Run(name, func(b *testing.B) {
			e, err := perdure.Open(b.Context(), perdure.Config{Store: open(b), Kinds: []perdure.AnyKind{accounts}})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() {
				if err := e.Close(context.Background()); err != nil {
					b.Error(err)
				}
			})
			ref := accounts.Ref(e, "hot")
			for range 128 {
				if _, err := ref.Do(b.Context(), &testv1.Annotate{Note: &testv1.Note{Text: strings.Repeat("x", 62)}}); err != nil {
					b.Fatal(err)
				}
			}
			deposit := &testv1.Deposit{Amount: 1}
			inParallel(b, callers, func(int) error {
				_, err := ref.Do(b.Context(), deposit)
				return err
			})
		})
	}
}
