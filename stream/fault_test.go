package stream_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/perduretest"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/stream"
	"github.com/perdure/perdure/stream/streamtest"
)

// pruneBelow deletes the events of an entity that no reader holds, as a pruner does.
func (w *writer) pruneBelow(hub *stream.Hub, key store.Key, pause time.Duration) {
	w.tb.Helper()
	parts, err := w.log.Heads(context.Background())
	if err != nil {
		w.tb.Fatal(err)
	}
	keep, err := hub.Keep(context.Background(), store.PartitionOf(key, len(parts)))
	if err != nil || keep.Sequence() == 0 || w.at[key] == 0 {
		return // the next snapshot tries it again
	}
	pass(pause)
	results, err := w.log.Commit(context.Background(), []*store.Batch{{
		Key: key, Expected: w.at[key], Snapshot: &store.State{ID: store.ID{1}, Type: "x.State"},
	}})
	if err == nil {
		err = results[0].Err
	}
	if err == nil {
		_, err = w.log.DeleteEvents(context.Background(), key, w.at[key], keep-1)
	}
	if err != nil {
		w.tb.Fatal(err)
	}
}

// TestSubscriptionMissesNothingWhateverFails opens and closes a subscription again
// and again on a log whose calls fail at random, while events that nothing holds are
// deleted. In the end each event has been acknowledged.
func TestSubscriptionMissesNothingWhateverFails(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			sound := memory.New(memory.WithPartitions(2))
			faults := perduretest.NewFaults(sound)
			log, w := faults.Log(), newWriter(t, sound, 0)
			checkpoints := []stream.Checkpoints{stream.LogCheckpoints(log), stream.LogCheckpoints(sound), new(streamtest.Elsewhere)}[seed%3]
			keys := []store.Key{book("a"), book("b"), book("c"), book("d")}
			acked, stored := map[store.Position]bool{}, 0
			take := func(s *stream.Subscription) error {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				d, err := s.Next(ctx)
				if errors.Is(err, stream.ErrDeleted) {
					t.Fatalf("seed %d: %v", seed, err)
				}
				if err != nil {
					return err
				}
				if random.IntN(4) == 0 {
					return d.Nack(ctx, time.Second, errors.New("not now"))
				}
				if err = d.Ack(); err != nil {
					return err
				}
				for i := range d.Events {
					acked[d.Events[i].Position] = true
				}
				return nil
			}
			began := false
			for range 12 {
				faults.Random(random.Uint64(), perduretest.Rates{NotStored: 0.1, FailBefore: 0.1, FailAfter: 0.15, ReadFailBefore: 0.1})
				hub, err := stream.NewHub(t.Context(), stream.Config{Log: log, Poll: time.Second, Register: seed%2 == 0})
				if err != nil {
					continue
				}
				s, err := hub.Subscribe(t.Context(), stream.SubscriptionConfig{
					Name: "s", Checkpoints: checkpoints, OpenMax: 1 + random.IntN(5), SaveEvery: 1 + random.IntN(3), AttemptsMax: -1,
				})
				began = began || err == nil // before that, events may be deleted
				for range random.IntN(30) {
					key := keys[random.IntN(len(keys))]
					switch n := random.IntN(4); {
					case n == 0 && began:
						w.write(key, 2)
						stored += 2
					case n == 1:
						w.pruneBelow(hub, key, 0)
					case s != nil:
						_ = take(s)
					}
				}
				if s != nil {
					if random.IntN(2) == 0 {
						faults.Random(1, perduretest.Rates{FailBefore: 1})
					}
					_ = s.Close(t.Context())
				}
				_ = hub.Shutdown(t.Context())
			}
			faults.Clear()
			s := newWriter(t, log, time.Second).subscribe(stream.SubscriptionConfig{Checkpoints: checkpoints, AttemptsMax: -1})
			for take(s) == nil {
			}
			if len(acked) != stored {
				t.Errorf("seed %d: %d events are acknowledged, want %d", seed, len(acked), stored)
			}
		})
	}
}

// TestReaderMissesNothingUntoldWhateverFails runs a slow reader on an engine whose
// log fails at random, also for minutes, while another engine deletes events. The
// reader reads each event, or gets a notice that it may be missing.
func TestReaderMissesNothingUntoldWhateverFails(t *testing.T) {
	t.Parallel()
	missing := 0
	for seed := range uint64(25) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			sound := memory.New()
			faults := perduretest.NewFaults(sound)
			w := newWriter(t, sound, 0)
			var hubs []*stream.Hub // the hub of the reader, and another hub
			for _, log := range []store.Log{faults.Log(), sound} {
				hub, err := stream.NewHub(t.Context(), stream.Config{Log: log, Poll: time.Second, Register: true})
				if err != nil {
					t.Fatal(err)
				}
				hubs = append(hubs, hub)
			}
			keys := []store.Key{book("a"), book("b"), book("c"), {Kind: "shelf", ID: "d"}, {Kind: "shelf", ID: "e"}}
			for _, key := range keys {
				w.write(key, 1)
			}
			start := store.Position(random.IntN(3))
			read := map[store.Position]bool{}
			var told []*stream.DeletedError
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			pauses := rand.New(rand.NewPCG(seed, 2))
			go func() {
				defer close(ended)
				for e, err := range hubs[0].Follow(ctx, store.Query{After: start}) {
					var notice *stream.DeletedError
					switch {
					case errors.As(err, &notice):
						told = append(told, notice)
					case err != nil && ctx.Err() == nil:
						t.Errorf("seed %d: the reader has ended: %v", seed, err)
					case err == nil:
						read[e.Position] = true
						pass(time.Duration(max(0, pauses.IntN(200)-110)) * time.Second)
					}
				}
			}()
			synctest.Wait()
			for range 40 {
				key := keys[random.IntN(len(keys))]
				switch n := random.IntN(24); {
				case n < 3:
					faults.Random(random.Uint64(), perduretest.Rates{NotStored: 0.1, FailBefore: 0.2, FailAfter: 0.2, ReadFailBefore: 0.2})
				case n < 6:
					faults.Random(random.Uint64(), perduretest.Rates{FailBefore: 0.9, FailAfter: 0.1, ReadFailBefore: 0.3})
				case n < 9:
					faults.Clear()
				case n == 9:
					_ = readersOf(t, sound).Remove(t.Context(), stream.LiveReaders)
				case n < 17:
					w.write(key, 1+random.IntN(4))
				case n < 20:
					pass(time.Duration(random.IntN(60)) * time.Second)
				default:
					w.pruneBelow(hubs[random.IntN(2)], key, time.Duration(random.IntN(2))*time.Second)
				}
			}
			faults.Clear()
			pass(3 * time.Hour)
			cancel()
			<-ended
			heads, err := sound.Heads(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for p := start + 1; p <= heads[0]; p++ {
				if read[p] {
					continue
				}
				missing++
				if !slices.ContainsFunc(told, func(d *stream.DeletedError) bool { return p > d.After && p <= d.Through }) {
					t.Errorf("seed %d: the event at %v is missing, and the reader was told of %v only", seed, p, told)
				}
			}
			for _, hub := range hubs {
				if err := hub.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	if missing == 0 {
		t.Error("nothing was missing, so nothing was tried")
	}
}
