package main

import (
	"context"
	"errors"
	"runtime"
	"sync"

	"github.com/perdure/perdure/actor"
)

// ours are the actors of this repository: without names, with mailboxes of the default
// length. A sender that finds a mailbox full yields and tries again.
type ours struct{}

// system returns a system and a function that ends it.
func (ours) system() (s *actor.System, end func() error) {
	s = actor.NewSystem(actor.Config{MailboxMax: mailboxLen})
	return s, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		return s.Shutdown(ctx)
	}
}

// spawnAll starts n actors with the behaviors that the function behavior returns.
func spawnAll[M any](s *actor.System, n int, behavior func(i int) actor.Behavior[M]) ([]actor.Ref[M], error) {
	refs := make([]actor.Ref[M], n)
	for i := range refs {
		var err error
		if refs[i], err = actor.Spawn(s, "", behavior(i)); err != nil {
			return nil, err
		}
	}
	return refs, nil
}

// push sends m as soon as the mailbox has room.
func push[M any](r actor.Ref[M], m M) error {
	for {
		err := r.Tell(m)
		if err == nil || !errors.Is(err, actor.ErrMailboxFull) {
			return err
		}
		runtime.Gosched()
	}
}

// A counter counts its messages, and signals done when it has all of them.
type counter struct {
	n, want uint64
	done    *sync.WaitGroup
}

func newCounter(want uint64, done *sync.WaitGroup) *counter {
	if want > 0 {
		done.Add(1)
	}
	return &counter{want: want, done: done}
}

func (c *counter) count() {
	if c.n++; c.n == c.want {
		c.done.Done()
	}
}

// Receive implements [actor.Behavior].
func (c *counter) Receive(*actor.Context[uint64], uint64) { c.count() }

func (o ours) tell(l load) trial {
	s, end := o.system()
	var done sync.WaitGroup
	want := l.want()
	refs, err := spawnAll(s, l.receivers, func(i int) actor.Behavior[uint64] { return newCounter(want[i], &done) })
	return trial{func() error {
		if err != nil {
			return err
		}
		err := together(len(l.orders), func(i int) error {
			return l.each(i, func(r uint32, n uint64) error { return push(refs[r], n) })
		})
		if err == nil {
			done.Wait()
		}
		return err
	}, end}
}

// A question asks for twice n.
type question struct {
	n     uint64
	reply actor.Reply[uint64]
}

func (o ours) ask(l load) trial {
	s, end := o.system()
	refs, err := spawnAll(s, l.receivers, func(int) actor.Behavior[question] {
		return actor.Func[question](func(_ *actor.Context[question], q question) { q.reply.Send(2 * q.n) })
	})
	return trial{func() error {
		if err != nil {
			return err
		}
		ctx := context.Background()
		return together(len(l.orders), func(i int) error {
			return l.each(i, func(r uint32, n uint64) error {
				got, err := actor.Ask(ctx, refs[r], func(r actor.Reply[uint64]) question { return question{n, r} })
				if err == nil && got != 2*n {
					err = wrongAnswer(n, got)
				}
				return err
			})
		})
	}, end}
}

// A ball is returned until it has no hits left.
type ball struct {
	left int
	from actor.Ref[ball]
}

func (o ours) pingPong(pairs, hits int) trial {
	s, end := o.system()
	var done sync.WaitGroup
	done.Add(pairs)
	refs, err := spawnAll(s, 2*pairs, func(int) actor.Behavior[ball] {
		return actor.Func[ball](func(c *actor.Context[ball], b ball) {
			if b.left--; b.left == 0 {
				done.Done()
				return
			}
			if err := actor.Tell(c, b.from, ball{b.left, c.Self()}); err != nil {
				panic(err) // the mailbox has no other sender, so it has room
			}
		})
	})
	return trial{func() error {
		if err != nil {
			return err
		}
		for i := 0; i < len(refs); i += 2 {
			if err := refs[i].Tell(ball{hits, refs[i+1]}); err != nil {
				return err
			}
		}
		done.Wait()
		return nil
	}, end}
}

func (o ours) spawn(n int) trial {
	s, end := o.system()
	return trial{func() error {
		idle := actor.Func[uint64](func(*actor.Context[uint64], uint64) {})
		_, err := spawnAll(s, n, func(int) actor.Behavior[uint64] { return idle })
		return err
	}, end}
}

// A growth is a message between nodes of the skynet. It asks a node to grow a subtree or,
// if leaves is zero, it tells a parent the sum of a subtree.
type growth struct {
	first  uint64
	leaves int
	sum    uint64
}

// A node is one actor of the skynet.
type node struct {
	system *actor.System
	parent actor.Ref[growth] // the zero Ref for the root
	sums   chan<- uint64     // set in the root only
	sum    uint64
	left   int
}

// Receive implements [actor.Behavior].
func (n *node) Receive(c *actor.Context[growth], g growth) {
	switch {
	case g.leaves == 1:
		n.finish(c, g.first)
	case g.leaves > 1:
		n.left = children
		leaves := g.leaves / children
		for i := range children {
			child, err := actor.Spawn(n.system, "", &node{system: n.system, parent: c.Self()})
			if err == nil {
				err = actor.Tell(c, child, growth{first: g.first + uint64(i*leaves), leaves: leaves})
			}
			if err != nil {
				panic(err) // the system is not shut down yet, and the child is new
			}
		}
	default:
		n.sum += g.sum
		if n.left--; n.left == 0 {
			n.finish(c, n.sum)
		}
	}
}

// finish sends a sum to the parent and stops.
func (n *node) finish(c *actor.Context[growth], sum uint64) {
	if n.sums != nil {
		n.sums <- sum
	} else if err := actor.Tell(c, n.parent, growth{sum: sum}); err != nil {
		panic(err) // a parent waits for all its children, and has room for their messages
	}
	c.Stop()
}

func (o ours) skynet(leaves int) trial {
	s, end := o.system()
	return trial{func() error {
		sums := make(chan uint64, 1)
		root, err := actor.Spawn(s, "", &node{system: s, sums: sums})
		if err == nil {
			err = root.Tell(growth{leaves: leaves})
		}
		if err != nil {
			return err
		}
		return wrongSum(leaves, <-sums)
	}, end}
}
