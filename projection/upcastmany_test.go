package projection_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
)

func TestUpcastMany(t *testing.T) {
	t.Parallel()
	// An old deposit of n units becomes n deposits of 10 and a remark.
	kinds := []perdure.AnyKind{accounts(perdure.UpcastMany(func(o *testv1.DepositedV0) (events []proto.Message) {
		for range o.GetUnits() {
			events = append(events, &testv1.Deposited{Amount: 10})
		}
		return append(events, &testv1.Annotated{})
	}, (*testv1.Deposited)(nil), (*testv1.Annotated)(nil)))}
	parts := func(got *[]string) projection.Rule[*memo] {
		return projection.On(func(_ context.Context, m *memo, e projection.Event[*testv1.Deposited]) error {
			m.rows["sum "+e.Key.ID] += int(e.Message.GetAmount())
			*got = append(*got, fmt.Sprintf("%v.%d", e.Position, e.Part))
			return nil
		})
	}
	t.Run("hands_over_each_part_at_one_position", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := newLog(t, 1), newTarget()
			c := projection.Config{Log: log, Kinds: kinds}
			depositOld(t, log, "a", 2)
			depositOld(t, log, "b", 0)
			deposit(t, log, "c", 0, 2)
			var got []string
			r := projection.New("p", parts(&got)).Into(g)
			if err := projection.RunOnce(t.Context(), c, r); err != nil {
				t.Fatal(err)
			}
			if want := []string{"1.0", "1.1", "3.0", "4.0"}; !slices.Equal(got, want) {
				t.Errorf("handled are %v, want %v", got, want)
			}
			wantRow(t, g, "sum a", 20)
			if at := status(t, r).Partitions[0].Position; at != position(4) {
				t.Errorf("it is at %v, want 4", at)
			}
			old := projection.New("old", projection.On(func(context.Context, *memo, projection.Event[*testv1.DepositedV0]) error { return nil })).Into(g)
			if err := projection.RunOnce(t.Context(), c, old); !errors.Is(err, store.ErrInvalid) {
				t.Errorf("a rule for what is upcast says %v", err)
			}
		})
	})
	t.Run("parks_all_parts_of_an_event_or_none", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := newLog(t, 1), newTarget()
			depositOld(t, log, "a", 3)
			depositOld(t, log, "b", 3)
			sick := true
			r := picky(func(e projection.Event[*testv1.Deposited]) error {
				if sick && e.Key.ID == "a" && e.Part == 2 {
					return errPoison
				}
				return nil
			}).With(attempts(2, 1, 1)).Into(g)
			defer background(t, projection.Config{Log: log, Kinds: kinds}, r)()
			atLeast(t, r, position(2))
			wantRow(t, g, "sum a", 0)
			wantRow(t, g, "sum b", 30)
			sick = false
			if err := r.Retry(t.Context(), store.Key{Kind: "account", ID: "a"}); err != nil {
				t.Fatal(err)
			}
			wantRow(t, g, "sum a", 30)
		})
	})
	t.Run("gives_a_batch_rule_all_messages", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := newLog(t, 1), newTarget()
			depositOld(t, log, "a", 2)
			deposit(t, log, "a", 1, 1)
			var counts []int
			r := projection.New("p", projection.OnBatch(func(_ context.Context, _ *memo, events []projection.AnyEvent) error {
				for _, e := range events {
					all, err := e.Messages()
					if err != nil {
						return err
					}
					counts = append(counts, len(all))
					if _, err := e.Message(); (err == nil) != (len(all) == 1) {
						t.Errorf("of %d messages Message says %v", len(all), err)
					}
				}
				return nil
			})).Into(g)
			if err := projection.RunOnce(t.Context(), projection.Config{Log: log, Kinds: kinds}, r); err != nil {
				t.Fatal(err)
			}
			if want := []int{3, 1}; !slices.Equal(counts, want) {
				t.Errorf("the events are %v messages, want %v", counts, want)
			}
		})
	})
	t.Run("has_a_consumer_handle_each_part_once", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log := newLog(t, 1)
			depositOld(t, log, "a", 3)
			var got []int
			fails := 2
			r := projection.Consume("mails", projection.Handle(func(_ context.Context, e projection.Event[*testv1.Deposited]) error {
				if fails > 0 && e.Part == 1 {
					fails--
					return errPoison
				}
				got = append(got, e.Part)
				return nil
			})).With(attempts(5, 1, 1)).Into(projection.InLog(log))
			if err := projection.RunOnce(t.Context(), projection.Config{Log: log, Kinds: kinds}, r); err != nil {
				t.Fatal(err)
			}
			if want := []int{0, 1, 2}; !slices.Equal(got, want) {
				t.Errorf("handled are the parts %v, want %v", got, want)
			}
		})
	})
}
