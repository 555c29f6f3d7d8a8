package bench_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
	"github.com/perdure/perdure/stream"
)

// senders is a kind whose commands enqueue messages: Annotate enqueues one to the entity
// that it names, where it becomes a Deposit. Open has the same event and enqueues nothing.
var senders = perdure.EventSourced("senders",
	perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Open) (*perdure.Decision, error) {
		return perdure.Persist(&testv1.Opened{Owner: c.GetOwner()}), nil
	}),
	perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Annotate) (*perdure.Decision, error) {
		return perdure.Persist(&testv1.Opened{Owner: text}).
			EnqueueTo(store.Key{Kind: "senders", ID: c.GetNote().GetText()}, &testv1.Deposit{Amount: 1}), nil
	}),
	perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
		return perdure.Persist(&testv1.Deposited{Amount: c.GetAmount()}), nil
	}),
	perdure.Evolve(func(a *testv1.Account, e *testv1.Opened) { a.Owner = e.GetOwner(); a.Operations++ }),
	perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount() }),
).With(perdure.PassivateAfter(0))

func openSenders(b *testing.B, log store.Log) *perdure.Engine {
	b.Helper()
	e, err := perdure.Open(b.Context(), perdure.Config{Store: log, Kinds: []perdure.AnyKind{senders}})
	if err != nil {
		b.Fatal(err)
	}
	return e
}

func closeEngine(b *testing.B, e *perdure.Engine) {
	b.Helper()
	if err := e.Close(context.Background()); err != nil {
		b.Error(err)
	}
}

// BenchmarkOutbox compares commands of 256 callers on bbolt with the same commands that
// enqueue one message each to another entity, and with commands that have an idempotency
// key. With messages the measured time ends when the last message is decided.
func BenchmarkOutbox(b *testing.B) {
	ctx := context.Background()
	names := make([]string, entities)
	for i := range names {
		names[i] = fmt.Sprintf("entity-%04d", i)
	}
	plain := &testv1.Open{Owner: text}
	b.Run("plain", func(b *testing.B) {
		e := openSenders(b, openBolt(b))
		defer closeEngine(b, e)
		inParallel(b, callers, func(n int) error {
			_, err := senders.Ref(e, names[n%entities]).Do(ctx, plain)
			return err
		})
	})
	b.Run("enqueue", func(b *testing.B) {
		e := openSenders(b, openBolt(b))
		defer closeEngine(b, e)
		begun := time.Now()
		inParallel(b, callers, func(n int) error {
			to := &testv1.Annotate{Note: &testv1.Note{Text: names[(n+entities/2)%entities]}}
			_, err := senders.Ref(e, names[n%entities]).Do(ctx, to)
			return err
		})
		delivered(b, e, b.N)
		b.ReportMetric(float64(b.N)/time.Since(begun).Seconds(), "delivered/s")
	})
	b.Run("key", func(b *testing.B) {
		e := openSenders(b, openBolt(b))
		defer closeEngine(b, e)
		inParallel(b, callers, func(n int) error {
			_, err := senders.Ref(e, names[n%entities]).Do(ctx, plain, perdure.WithIdempotencyKey(strconv.Itoa(n)))
			return err
		})
	})
}

// delivered waits until the given number of messages have become events.
func delivered(b *testing.B, e *perdure.Engine, messages int) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	n := 0
	for ev, err := range e.Events(ctx, store.Query{}) {
		switch {
		case errors.Is(err, stream.ErrLagged):
		case err != nil:
			b.Fatalf("%d of %d messages are delivered: %v", n, messages, err)
		case ev.Type == string(proto.MessageName(&testv1.Deposited{})):
			if n++; n == messages {
				return
			}
		}
	}
}

// timersEnv is the environment variable with the number of timers of
// BenchmarkOpenWithTimers.
const (
	timersEnv     = "PERDURE_BENCH_TIMERS"
	timersDefault = 200_000
)

// BenchmarkOpenWithTimers opens a log with many timers that are not due, opens an engine on
// it, and sends it one command:
//
//	PERDURE_BENCH_TIMERS=1000000 go test -run '^$' -bench OpenWithTimers ./bench
func BenchmarkOpenWithTimers(b *testing.B) {
	timers := timersDefault
	if s := os.Getenv(timersEnv); s != "" {
		var err error
		if timers, err = strconv.Atoi(s); err != nil {
			b.Fatalf("%s=%s: %v", timersEnv, s, err)
		}
	}
	file := filepath.Join(b.TempDir(), "log.db")
	setTimers(b, file, timers)
	ctx := b.Context()
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		log, err := bbolt.Open(file)
		if err != nil {
			b.Fatal(err)
		}
		e := openSenders(b, log)
		if _, err := senders.Ref(e, "entity").Do(ctx, &testv1.Open{}); err != nil {
			b.Fatal(err)
		}
		if n := e.Stats().Deliveries; n != 0 {
			b.Fatalf("%d of the timers are in memory, want none before they are due", n)
		}
		closeEngine(b, e)
		if err := log.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(timers), "timers")
}

// setTimers stores timers that are due tomorrow, a thousand per entity.
func setTimers(b *testing.B, file string, timers int) {
	b.Helper()
	log, err := bbolt.Open(file)
	if err != nil {
		b.Fatal(err)
	}
	payload, err := proto.Marshal(&testv1.Deposit{Amount: 1})
	if err != nil {
		b.Fatal(err)
	}
	due := time.Now().Add(24 * time.Hour)
	const perEntity = 1000
	for n := 0; n < timers; {
		batch := &store.Batch{Key: store.Key{Kind: senders.Name(), ID: fmt.Sprintf("timers-%06d", n/perEntity)}}
		for range min(perEntity, timers-n) {
			n++
			id := store.ID{0: 1}
			binary.BigEndian.PutUint64(id[8:], uint64(n))
			batch.Enqueue = append(batch.Enqueue, store.Message{
				ID: id, Target: batch.Key, Timer: strconv.Itoa(n), Due: due.Add(time.Duration(n)),
				Type: string(proto.MessageName(&testv1.Deposit{})), Payload: payload,
			})
		}
		results, err := log.Commit(b.Context(), []*store.Batch{batch})
		if err != nil || results[0].Err != nil {
			b.Fatalf("set timers: %v, %v", err, results)
		}
	}
	if err := log.Close(); err != nil {
		b.Fatal(err)
	}
}
