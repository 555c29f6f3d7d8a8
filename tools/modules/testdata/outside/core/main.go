// Core counts in memory with the core module alone.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/store/memory"
)

var counters = perdure.EventSourced("counter",
	perdure.Decide(func(_ context.Context, total *wrapperspb.Int64Value, add *wrapperspb.Int32Value) (*perdure.Decision, error) {
		if add.GetValue() < 0 {
			return nil, perdure.Reject(perdure.InvalidArgument, "%d is negative", add.GetValue())
		}
		return perdure.Persist(wrapperspb.UInt32(uint32(add.GetValue()))), nil
	}),
	perdure.Evolve(func(total *wrapperspb.Int64Value, added *wrapperspb.UInt32Value) {
		total.Value += int64(added.GetValue())
	}),
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	engine, err := perdure.Open(ctx, perdure.Config{Store: memory.New(), Kinds: []perdure.AnyKind{counters}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Close(ctx)) }()
	c := counters.Ref(engine, "a")
	for range 3 {
		if _, err := c.Ask(ctx, wrapperspb.Int32(2)); err != nil {
			return err
		}
	}
	if _, err := c.Ask(ctx, wrapperspb.Int32(-1)); !errors.Is(err, perdure.InvalidArgument) {
		return fmt.Errorf("a negative number: got %v, want a refusal", err)
	}
	total, err := c.State(ctx)
	if err == nil && total.GetValue() != 6 {
		err = fmt.Errorf("total is %d, want 6", total.GetValue())
	}
	return err
}
