// Bank moves money between accounts by a process manager that survives every crash, pays
// interest by a timer that sets itself again, and writes letters.
//
//	go run ./examples/bank                 in memory
//	go run ./examples/bank bbolt:bank.db   in a file; run it twice
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/perdure/perdure"
	bankv1 "github.com/perdure/perdure/examples/bank/proto/bank/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
	"github.com/perdure/perdure/store/memory"
)

func main() {
	uri := "memory:"
	if len(os.Args) > 1 {
		uri = os.Args[1]
	}
	if err := run(context.Background(), uri, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bank:", err)
		os.Exit(1)
	}
}

// month is a very short month, for the example.
const month = 100 * time.Millisecond

func run(ctx context.Context, uri string, out io.Writer) (err error) {
	log, err := store.Open(ctx, uri, bbolt.Driver(), memory.Driver())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	engine, err := openBank(ctx, log, letters(out))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Close(ctx)) }()

	interest := &bankv1.Interest{Rate: 10_000, Every: durationpb.New(month)}
	for _, command := range []struct {
		account string
		message proto.Message
	}{
		{"ada", &bankv1.OpenAccount{Owner: "ada", Balance: 100_00}},
		{"bob", &bankv1.OpenAccount{Owner: "bob"}},
		{"eve", &bankv1.OpenAccount{Owner: "eve"}},
		{"eve", &bankv1.CloseAccount{}},
		{"fay", &bankv1.OpenAccount{Owner: "fay", Balance: 1000_00, Interest: interest}},
	} {
		// The key makes the command safe to send again: in a second run of the program it
		// gets its first answer.
		key := perdure.WithIdempotencyKey(string(proto.MessageName(command.message)))
		if _, err := Accounts.Ref(engine, command.account).Do(ctx, command.message, key); err != nil {
			return err
		}
	}
	for _, t := range []struct {
		id      string
		message *bankv1.StartTransfer
	}{
		{"1", &bankv1.StartTransfer{From: "ada", To: "bob", Amount: 30_00}},
		{"2", &bankv1.StartTransfer{From: "ada", To: "eve", Amount: 20_00}},
		{"3", &bankv1.StartTransfer{From: "bob", To: "ada", Amount: 500_00}},
	} {
		t.message.Patience = durationpb.New(time.Minute)
		ref := Transfers.Ref(engine, t.id)
		if _, err := ref.Do(ctx, t.message, perdure.WithIdempotencyKey("start")); err != nil {
			return err
		}
		if err := wait(ctx, engine, ref.Key(), &bankv1.TransferCompleted{}, &bankv1.TransferFailed{}); err != nil {
			return err
		}
	}
	if err := wait(ctx, engine, account("fay"), &bankv1.InterestPaid{}); err != nil {
		return err
	}
	return report(ctx, engine, out)
}

// openBank opens an engine with the kinds and effects of the bank.
func openBank(ctx context.Context, log store.Log, effects ...perdure.EffectRule) (*perdure.Engine, error) {
	return perdure.Open(ctx, perdure.Config{
		Store: log, Kinds: []perdure.AnyKind{Accounts, Transfers}, Effects: effects,
	})
}

// letters performs notices by writing them to out, from many goroutines. If the program
// dies between the write and its acknowledgement, a letter is written twice; the id in its
// [perdure.EffectInfo] is the same both times.
func letters(out io.Writer) perdure.EffectRule {
	return perdure.Perform(func(_ context.Context, n *bankv1.Notice) error {
		_, err := fmt.Fprintf(out, "  letter to %s: %s\n", n.GetTo(), n.GetText())
		return err
	}, perdure.RetryPolicy{MaxAttempts: 10, MinBackoff: 100 * time.Millisecond, MaxBackoff: time.Minute})
}

// wait waits for an event of an entity.
func wait(ctx context.Context, engine *perdure.Engine, key store.Key, events ...proto.Message) error {
	for ev, err := range engine.Events(ctx, store.Query{}) {
		if err != nil {
			return err
		}
		for _, m := range events {
			if ev.Key == key && ev.Type == string(proto.MessageName(m)) {
				return nil
			}
		}
	}
	return ctx.Err()
}

// report writes the transfers and accounts at the end.
func report(ctx context.Context, engine *perdure.Engine, out io.Writer) error {
	lines := []string{"transfers:"}
	for _, id := range []string{"1", "2", "3"} {
		t, err := Transfers.Ref(engine, id).State(ctx)
		if err != nil {
			return err
		}
		step := strings.ToLower(strings.TrimPrefix(t.GetStep().String(), "STEP_"))
		lines = append(lines, fmt.Sprintf("  %s: %s to %s, %s: %s", id, t.GetFrom(), t.GetTo(), cents(t.GetAmount()), cmp.Or(t.GetReason(), step)))
	}
	lines = append(lines, "accounts:")
	for _, id := range []string{"ada", "bob", "eve", "fay"} {
		a, err := Accounts.Ref(engine, id).State(ctx)
		if err != nil {
			return err
		}
		lines = append(lines, fmt.Sprintf("  %s: %s", id, cents(a.GetBalance())))
	}
	_, err := fmt.Fprintln(out, strings.Join(lines, "\n"))
	return err
}
