package main

import (
	"fmt"
	"log/slog"
	"sync"

	proto "github.com/asynkron/protoactor-go/actor"
)

// protoActor is Proto.Actor with its defaults: unbounded mailboxes and generated names.
// Only its log is turned off.
type protoActor struct{}

// system returns a system and a function that ends it.
func (protoActor) system() (root *proto.RootContext, end func() error) {
	s := proto.NewActorSystem(proto.WithLoggerFactory(func(*proto.ActorSystem) *slog.Logger { return slog.New(slog.DiscardHandler) }))
	return s.Root, func() error {
		s.Shutdown()
		return nil
	}
}

func spawnProto(root *proto.RootContext, n int, behavior func(i int) proto.ReceiveFunc) []*proto.PID {
	pids := make([]*proto.PID, n)
	for i := range pids {
		pids[i] = root.Spawn(proto.PropsFromFunc(behavior(i)))
	}
	return pids
}

func (p protoActor) tell(l load) trial {
	root, end := p.system()
	var done sync.WaitGroup
	want := l.want()
	pids := spawnProto(root, l.receivers, func(i int) proto.ReceiveFunc {
		counter := newCounter(want[i], &done)
		return func(c proto.Context) {
			if _, ok := c.Message().(uint64); ok {
				counter.count()
			}
		}
	})
	return trial{func() error {
		err := together(len(l.orders), func(i int) error {
			return l.each(i, func(r uint32, n uint64) error {
				root.Send(pids[r], n)
				return nil
			})
		})
		done.Wait()
		return err
	}, end}
}

func (p protoActor) ask(l load) trial {
	root, end := p.system()
	pids := spawnProto(root, l.receivers, func(int) proto.ReceiveFunc {
		return func(c proto.Context) {
			if n, ok := c.Message().(uint64); ok {
				c.Respond(2 * n)
			}
		}
	})
	return trial{func() error {
		return together(len(l.orders), func(i int) error {
			return l.each(i, func(r uint32, n uint64) error {
				answer, err := root.RequestFuture(pids[r], n, patience).Result()
				if err != nil {
					return err
				}
				got, ok := answer.(uint64)
				if !ok {
					return fmt.Errorf("the answer to %d is a %T", n, answer)
				}
				if got != 2*n {
					return wrongAnswer(n, got)
				}
				return nil
			})
		})
	}, end}
}

func (p protoActor) pingPong(pairs, hits int) trial {
	root, end := p.system()
	var done sync.WaitGroup
	done.Add(pairs)
	pids := spawnProto(root, 2*pairs, func(int) proto.ReceiveFunc {
		return func(c proto.Context) {
			left, ok := c.Message().(int)
			if !ok {
				return
			}
			if left--; left == 0 {
				done.Done()
				return
			}
			c.Request(c.Sender(), left)
		}
	})
	return trial{func() error {
		for i := 0; i < len(pids); i += 2 {
			root.RequestWithCustomSender(pids[i], hits, pids[i+1])
		}
		done.Wait()
		return nil
	}, end}
}

func (p protoActor) spawn(n int) trial {
	root, end := p.system()
	return trial{func() error {
		props := proto.PropsFromFunc(func(proto.Context) {})
		for range n {
			root.Spawn(props)
		}
		return nil
	}, end}
}

// A protoNode is one actor of the skynet.
type protoNode struct {
	props  *proto.Props
	parent *proto.PID    // nil for the root
	sums   chan<- uint64 // set in the root only
	sum    uint64
	left   int
}

// A subtree asks a node to grow a subtree.
type subtree struct {
	first  uint64
	leaves int
	parent *proto.PID
}

func (n *protoNode) Receive(c proto.Context) {
	switch m := c.Message().(type) {
	case subtree:
		n.parent = m.parent
		if m.leaves == 1 {
			n.finish(c, m.first)
			return
		}
		n.left = children
		leaves := m.leaves / children
		for i := range children {
			child := c.ActorSystem().Root.Spawn(n.props)
			c.Send(child, subtree{m.first + uint64(i*leaves), leaves, c.Self()})
		}
	case uint64:
		n.sum += m
		if n.left--; n.left == 0 {
			n.finish(c, n.sum)
		}
	}
}

// finish sends a sum to the parent and stops.
func (n *protoNode) finish(c proto.Context, sum uint64) {
	if n.parent == nil {
		n.sums <- sum
	} else {
		c.Send(n.parent, sum)
	}
	c.Stop(c.Self())
}

func (p protoActor) skynet(leaves int) trial {
	root, end := p.system()
	return trial{func() error {
		sums := make(chan uint64, 1)
		var props *proto.Props
		props = proto.PropsFromProducer(func() proto.Actor { return &protoNode{props: props, sums: sums} })
		root.Send(root.Spawn(props), subtree{leaves: leaves})
		return wrongSum(leaves, <-sums)
	}, end}
}
