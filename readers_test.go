package perdure_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/stream"
)

// A pruned is a log that engines share, and whose kind deletes as many events as it can.
type pruned struct {
	*testing.T
	log  *memory.Log
	kind *perdure.Kind[*testv1.Account]
}

func newPruned(t *testing.T, options ...memory.Option) *pruned {
	return &pruned{t, newLog(t, append(options, memory.Shared())...), accounts(perdure.SnapshotEvery(2), perdure.RetainEvents(0))}
}

func (p *pruned) engine() *perdure.Engine { return open(p, p.log, p.kind) }

// first waits until everything is deleted that can be, and returns the position of an entity's
// first remaining event.
func (p *pruned) first(id string) store.Position {
	p.Helper()
	synctest.Wait()
	for ev, err := range p.log.Read(p.Context(), store.Key{Kind: "account", ID: id}, 0) {
		if err != nil {
			p.Fatal(err)
		}
		return ev.Position
	}
	return 0
}

// marks returns the checkpoints of a log, each as name@position.
func (p *pruned) marks() (all []string) {
	p.Helper()
	marks, err := p.log.Checkpoints(p.Context())
	if err != nil {
		p.Fatal(err)
	}
	for _, m := range marks {
		all = append(all, fmt.Sprintf("%s@%v", m.Name, m.Position))
	}
	return all
}

// A slow is a reader that stops after its first event until the test lets it continue.
type slow struct {
	goOn    chan struct{}
	stop    context.CancelFunc
	ended   chan struct{}
	got     []store.Position
	notices []*stream.DeletedError
	err     error
}

func (p *pruned) read(e *perdure.Engine, after store.Position) *slow {
	ctx, stop := context.WithCancel(p.Context())
	s := &slow{goOn: make(chan struct{}), stop: stop, ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		for ev, err := range e.Events(ctx, store.Query{After: after}) {
			if notice, ok := errors.AsType[*stream.DeletedError](err); ok {
				s.notices = append(s.notices, notice)
				continue
			}
			if err != nil {
				s.err = err
				return
			}
			if s.got = append(s.got, ev.Position); len(s.got) == 1 {
				<-s.goOn
			}
		}
	}()
	synctest.Wait()
	return s
}

func (s *slow) end(t *pruned) {
	t.Helper()
	pass(time.Minute) // it reads the whole log
	synctest.Wait()
	s.stop()
	<-s.ended
	if !errors.Is(s.err, context.Canceled) {
		t.Errorf("the reader has ended with %v, want the end of its context", s.err)
	}
}

func TestRetentionWaitsForTheReadersOfAllEngines(t *testing.T) {
	t.Parallel()
	run := func(name string, do func(p *pruned)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { do(newPruned(t)) })
		})
	}
	run("while a reader of another engine is slow", func(p *pruned) {
		reader, writer := p.engine(), p.engine()
		deposits(p.T, p.kind.Ref(writer, "1"), 1)
		s := p.read(reader, 0)
		for range 10 {
			deposits(p.T, p.kind.Ref(writer, "1"), 3)
			pass(time.Minute) // longer than all waits
		}
		if got := p.first("1"); got != 1 {
			p.Errorf("first event that is kept for the reader at 1: got %v, want 1", got)
		}
		close(s.goOn)
		s.end(p)
		if len(s.got) != 31 || len(s.notices) != 0 {
			p.Errorf("got %d events and the notices %v, want 31 and none", len(s.got), s.notices)
		}
	})
	run("until the reader has passed them", func(p *pruned) {
		reader, writer := p.engine(), p.engine()
		ref := p.kind.Ref(writer, "1")
		deposits(p.T, ref, 6)
		s := p.read(reader, 2)
		if got := p.marks(); !slices.Equal(got, []string{"live@2"}) {
			p.Errorf("while the reader is at 2: got the checkpoints %q, want live@2", got)
		}
		close(s.goOn)
		pass(10*time.Second + time.Second/2) // not at the time of a move
		if got := p.marks(); !slices.Equal(got, []string{"live@6"}) {
			p.Errorf("once the reader is at 6: got the checkpoints %q, want live@6", got)
		}
		deposits(p.T, ref, 4)
		if got := p.first("1"); got != 6 {
			p.Errorf("first event that is kept: got %v, want 6, where the reader is", got)
		}
		s.end(p)
	})
	run("and no longer than they are there", func(p *pruned) {
		reader, writer := p.engine(), p.engine()
		deposits(p.T, p.kind.Ref(writer, "1"), 2)
		a, b := p.read(reader, 0), p.read(reader, 0)
		close(a.goOn)
		a.end(p)
		if got := p.marks(); !slices.Equal(got, []string{"live@0"}) {
			p.Errorf("while one reader is left: got the checkpoints %q, want live@0", got)
		}
		close(b.goOn)
		b.end(p)
		pass(10 * time.Second)
		if got := p.marks(); len(got) != 0 {
			p.Errorf("without a reader: got the checkpoints %q, want none", got)
		}
		c := p.read(reader, 0)
		close(c.goOn)
		if err := reader.Close(p.Context()); err != nil {
			p.Fatal(err)
		}
		if got := p.marks(); len(got) != 0 {
			p.Errorf("after Close: got the checkpoints %q, want none", got)
		}
		<-c.ended
		deposits(p.T, p.kind.Ref(writer, "1"), 2)
		if got := p.first("1"); got != 4 {
			p.Errorf("first event that is kept: got %v, want the last, 4", got)
		}
	})
	run("which are told apart from engines that have died", func(p *pruned) {
		writer := p.engine()
		ref := p.kind.Ref(writer, "1")
		readers := stream.NewReaders(p.log)
		_, err := readers.Register(p.Context(), stream.LiveReaders, "dead", 1)
		if err != nil {
			p.Fatal(err)
		}
		alive, err := readers.Register(p.Context(), stream.LiveReaders, "alive", 5)
		if err != nil {
			p.Fatal(err)
		}
		deposits(p.T, ref, 10)
		for at := store.Position(5); at < 8; at++ {
			if got := p.first("1"); got != 1 {
				p.Errorf("first event that is kept %v after the start: got %v, want 1", time.Duration(at-5)*stream.LiveSilenceMax/3, got)
			}
			pass(stream.LiveSilenceMax / 3)
			if err := alive.Move(p.Context(), at); err != nil {
				p.Fatal(err)
			}
			deposits(p.T, ref, 2)
		}
		if got := p.first("1"); got != 7 {
			p.Errorf("first event that is kept once the silence is over: got %v, want 7, where the living one is", got)
		}
		if got := p.marks(); !slices.Equal(got, []string{"live@7"}) {
			p.Errorf("got the checkpoints %q, want live@7", got)
		}
	})
	run("and one that was taken for dead is told", func(p *pruned) {
		reader, writer := p.engine(), p.engine()
		deposits(p.T, p.kind.Ref(writer, "1"), 2)
		s := p.read(reader, 0)
		p.takeForDead()
		deposits(p.T, p.kind.Ref(writer, "1"), 6)
		if got := p.first("1"); got != 8 {
			p.Fatalf("first event that is kept: got %v, want the last, 8", got)
		}
		close(s.goOn)
		s.end(p)
		if !slices.Contains(s.got, 8) || len(s.notices) != 1 {
			p.Fatalf("got the events %v and the notices %v, want the last event and a notice", s.got, s.notices)
		}
		if n := s.notices[0]; n.After > 2 || n.Through != 7 || !slices.Equal(n.Kinds, []string{"account"}) || !errors.Is(n, stream.ErrDeleted) {
			p.Errorf("got the notice %+v, want one of accounts through 7", n)
		}
	})
	for _, dead := range []bool{true, false} {
		run(fmt.Sprintf("and a deletion below an earlier one is told where nothing held it, so %t", dead), func(p *pruned) {
			reader, writer := p.engine(), p.engine()
			deposits(p.T, p.kind.Ref(writer, "0"), 1) // position 1
			deposits(p.T, p.kind.Ref(writer, "1"), 2) // positions 2 and 3; 2 is deleted
			p.first("1")
			deposits(p.T, p.kind.Ref(writer, "1"), 1)  // position 4
			deposits(p.T, p.kind.Ref(writer, "2"), 10) // positions 5 to 14; all but 14 are deleted
			p.first("2")
			s := p.read(reader, 0)
			if dead {
				p.takeForDead()
			}
			n, err := p.log.DeleteEvents(p.Context(), store.Key{Kind: "account", ID: "1"}, 3, 3)
			if err != nil || n != 1 {
				p.Fatalf("got %d deleted events and error %v, want 1", n, err)
			}
			close(s.goOn)
			s.end(p)
			if (len(s.notices) > 0) != dead {
				p.Errorf("got the notices %v, want one: %t", s.notices, dead)
			}
		})
	}
}

// takeForDead acts like an engine that has not heard of the others for too long. It leaves them
// no time to notice.
func (p *pruned) takeForDead() {
	p.Helper()
	if err := stream.NewReaders(p.log).Remove(p.Context(), stream.LiveReaders); err != nil {
		p.Fatal(err)
	}
}

func TestCheckpointsHoldTheirPartitionOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPruned(t, memory.WithPartitions(2))
		e := p.engine()
		ids := [2]string{}
		for i := 0; ids[0] == "" || ids[1] == ""; i++ {
			id := fmt.Sprint(i)
			ids[store.PartitionOf(store.Key{Kind: "account", ID: id}, 2)] = id
		}
		results, err := p.log.Commit(t.Context(), []*store.Batch{{Checkpoints: []store.Checkpoint{{Name: "reader", Position: store.NewPosition(0, 3)}}}})
		if err != nil || results[0].Err != nil {
			t.Fatal(err, results)
		}
		for part, id := range ids {
			deposits(t, p.kind.Ref(e, id), 10)
			want := []store.Position{store.NewPosition(0, 3), store.NewPosition(1, 10)}[part]
			if got := p.first(id); got != want {
				t.Errorf("first event that is kept of partition %d: got %v, want %v", part, got, want)
			}
		}
	})
}

func TestReaderAboveTheHeadGetsErrReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, options := range [][]memory.Option{nil, {memory.Shared()}} {
			log := newLog(t, options...)
			kind := accounts()
			e := open(t, log, kind)
			ref := kind.Ref(e, "1")
			r, err := ref.Do(t.Context(), &testv1.Deposit{Amount: 1})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			for _, err := range e.Events(ctx, store.Query{After: r.Position + 1}) {
				if !errors.Is(err, stream.ErrReplaced) {
					t.Errorf("events after %v of a log with one: got %v, want %v", r.Position+1, err, stream.ErrReplaced)
				}
			}
			for ev, err := range e.Events(ctx, store.Query{After: r.Position}) { // waiting for the next event is correct
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("events after the head: got %v and %v, want none until the context ends", ev, err)
				}
			}
			cancel()
		}
	})
}
