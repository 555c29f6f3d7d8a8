package perdure_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// TestEnginesThatShareALogDeliverToAnEntityOnce has engines come and go on one
// log, each of which finds the messages that the others are delivering. On one
// of the logs every second commit is in doubt.
func TestEnginesThatShareALogDeliverToAnEntityOnce(t *testing.T) {
	t.Parallel()
	for _, instant := range []bool{true, false} {
		for _, doubt := range []bool{true, false} {
			t.Run(fmt.Sprintf("instant %v doubt %v", instant, doubt), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					ctx := t.Context()
					kind, target, r := senders(), accounts(), &recorder{}
					rules := r.rules()
					log := &doubtfulLog{Log: newLog(t, memory.Shared()), instant: instant, trusted: !doubt}
					openOne := func() *perdure.Engine {
						e, err := perdure.Open(ctx, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind, target}, Effects: rules})
						if err != nil {
							t.Fatal(err)
						}
						return e
					}
					const engines, commands = 4, 10
					var all []*perdure.Engine
					var wg sync.WaitGroup
					for n := range engines {
						e := openOne() // it reads what the others have left
						all = append(all, e)
						for i := range commands {
							wg.Go(func() {
								key := perdure.WithIdempotencyKey(fmt.Sprint(n, i))
								if _, err := kind.Ref(e, fmt.Sprint(i%2)).Do(ctx, &testv1.Withdraw{Amount: 1}, key); err != nil {
									t.Error(err)
								}
							})
						}
					}
					wg.Wait()
					for _, e := range all[1:] {
						if err := e.Close(ctx); err != nil {
							t.Fatal(err)
						}
					}
					last := openOne()
					<-time.After(time.Hour)
					log.trust()
					s, err := target.Ref(last, "target").State(ctx)
					if err != nil || s.GetBalance() != engines*commands || s.GetOperations() != engines*commands {
						t.Errorf("target: got %v, %v, want %d deposits of 1", s, err, engines*commands)
					}
					replies := 0
					for i := range 2 {
						s, err := kind.Ref(last, fmt.Sprint(i)).State(ctx)
						if err != nil {
							t.Fatal(err)
						}
						replies += len(s.GetNotes())
					}
					if replies != engines*commands {
						t.Errorf("the senders have got %d replies, want %d", replies, engines*commands)
					}
					for _, parked := range []bool{false, true} {
						for m, err := range log.Messages(ctx, store.MessageQuery{Parked: parked}) {
							t.Errorf("message %+v (%v) is still there", m, err)
						}
					}
					for _, e := range []*perdure.Engine{all[0], last} {
						if err := e.Close(ctx); err != nil {
							t.Fatal(err)
						}
					}
				})
			})
		}
	}
}

// TestMessagesOfAnEngineThatHasDiedAreDelivered has an engine store messages
// whose delivery it never comes to, beside another that goes on.
func TestMessagesOfAnEngineThatHasDiedAreDelivered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		kind, target, r := senders(), accounts(), &recorder{}
		log := newLog(t, memory.Shared())
		openOne := func(log store.Log) *perdure.Engine {
			e, err := perdure.Open(ctx, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind, target}, Effects: r.rules()})
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
		alive := openOne(log)
		dying := &hookedLog{Log: log}
		dead := openOne(dying)
		synctest.Wait() // both have looked at the store
		dying.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
			if group[0].Key.Kind == kind.Name() {
				return next(group)
			}
			return nil, fmt.Errorf("%w: it has died", store.ErrNotStored)
		})
		if _, err := kind.Ref(dead, "1").Do(ctx, &testv1.Withdraw{Amount: 1}); err != nil {
			t.Fatal(err)
		}
		balance := func() int64 {
			s, err := target.Ref(alive, "target").State(ctx)
			if err != nil {
				t.Fatal(err)
			}
			return s.GetBalance()
		}
		<-time.After(perdure.RescueAfterDefault / 2)
		if n := balance(); n != 0 {
			t.Errorf("the other engine has taken a message that is not old: balance %d, want 0", n)
		}
		<-time.After(2 * perdure.RescueAfterDefault)
		if n := balance(); n != 1 {
			t.Errorf("the message of an engine that has died: balance of its target %d, want 1", n)
		}
		for _, e := range []*perdure.Engine{dead, alive} {
			if err := e.Close(ctx); err != nil {
				t.Fatal(err)
			}
		}
	})
}
