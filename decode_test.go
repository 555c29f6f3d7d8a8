package perdure_test

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
)

func TestKindDecode(t *testing.T) {
	t.Parallel()
	kind := accounts(perdure.Upcast(func(o *testv1.DepositedV0) *testv1.Deposited {
		if o.GetUnits() < 0 {
			return nil
		}
		return &testv1.Deposited{Amount: 100 * o.GetUnits()}
	}))
	event := func(m proto.Message) *store.Event {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return &store.Event{Key: store.Key{Kind: "account", ID: "1"}, Version: 3, Type: string(proto.MessageName(m)), Payload: b}
	}
	t.Run("returns_the_event", func(t *testing.T) {
		t.Parallel()
		got, err := kind.Decode(event(&testv1.Deposited{Amount: 3}))
		if err != nil || len(got) != 1 || got[0].(*testv1.Deposited).GetAmount() != 3 {
			t.Errorf("got %v, %v, want a deposit of 3", got, err)
		}
	})
	t.Run("applies_upcasts", func(t *testing.T) {
		t.Parallel()
		got, err := kind.Decode(event(&testv1.DepositedV0{Units: 7}))
		if err != nil || len(got) != 1 || got[0].(*testv1.Deposited).GetAmount() != 700 {
			t.Errorf("got %v, %v, want a deposit of 700", got, err)
		}
	})
	damaged := event(&testv1.Deposited{Amount: 3})
	damaged.Payload = damaged.Payload[:1]
	foreign := event(&testv1.Deposited{Amount: 3})
	foreign.Key.Kind = "book"
	for name, c := range map[string]struct {
		kind  *perdure.Kind[*testv1.Account]
		event *store.Event
		is    error
		want  string
	}{
		"a_type_without_a_rule": {kind, event(&testv1.Touch{}), perdure.ErrUnhandled, `decode event 3 of account/1: no rule for the message: kind "account" has neither an Evolve nor an Upcast rule for perdure.test.v1.Touch`},
		"another_kind":          {kind, foreign, store.ErrInvalid, `decode event 3 of book/1: invalid: it is not of kind "account"`},
		"an_upcast_to_nil":      {kind, event(&testv1.DepositedV0{Units: -1}), nil, "decode event 3 of account/1: the Upcast of perdure.test.v1.DepositedV0 has returned nil"},
		"a_damaged_payload":     {kind, damaged, store.ErrCorrupt, ""},
		"a_kind_with_a_mistake": {perdure.EventSourced[*testv1.Account]("account"), damaged, store.ErrInvalid, ""},
	} {
		t.Run("fails_for_"+name, func(t *testing.T) {
			t.Parallel()
			got, err := c.kind.Decode(c.event)
			if err == nil || c.is != nil && !errors.Is(err, c.is) || c.want != "" && err.Error() != c.want {
				t.Errorf("got %v, %v\nwant %s, matching %v", got, err, c.want, c.is)
			}
		})
	}
}
