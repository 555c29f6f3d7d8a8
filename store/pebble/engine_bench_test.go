package pebble_test

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/perdure/perdure"
)

// remarks are entities of which each command stores one event of the size of benchPayload.
var remarks = perdure.EventSourced("remarks",
	perdure.Decide(func(_ context.Context, _ *wrapperspb.UInt64Value, c *wrapperspb.BytesValue) (*perdure.Decision, error) {
		return perdure.Persist(c), nil
	}),
	perdure.Evolve(func(n *wrapperspb.UInt64Value, _ *wrapperspb.BytesValue) { n.Value++ }),
).With(perdure.PassivateAfter(0))

// BenchmarkEngine runs commands through an engine, spread over 1,000 entities and to
// one entity, beside the bare group commit of BenchmarkAppend.
func BenchmarkEngine(b *testing.B) {
	for _, n := range []int{64, 256, 1024} {
		b.Run(fmt.Sprintf("callers=%d/bare", n), func(b *testing.B) { benchBare(b, n, layoutE) })
		b.Run(fmt.Sprintf("callers=%d/do", n), func(b *testing.B) { benchDo(b, n, 1000) })
		b.Run(fmt.Sprintf("callers=%d/hot", n), func(b *testing.B) { benchDo(b, n, 1) })
	}
}

func benchDo(b *testing.B, callers, entities int) {
	e, err := perdure.Open(b.Context(), perdure.Config{Store: benchLogOf(b), Kinds: []perdure.AnyKind{remarks}})
	if err != nil {
		b.Fatal(err)
	}
	refs := make([]perdure.Ref[*wrapperspb.UInt64Value], entities)
	for i := range refs {
		refs[i] = remarks.Ref(e, fmt.Sprint(i))
	}
	command := wrapperspb.Bytes(benchPayload)
	spread(b, callers, func(worker, step int) {
		if _, err := refs[(worker+step*callers)%entities].Do(context.Background(), command); err != nil {
			b.Error(err)
		}
	})
	if err := e.Close(context.Background()); err != nil {
		b.Error(err)
	}
}
