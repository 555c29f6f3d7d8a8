package main

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"time"
)

const (
	// mailboxLen is the capacity of a mailbox or channel, where it can be set.
	mailboxLen = 1024
	// spawnedLen is the capacity of a channel in the spawn work, which never gets a
	// message.
	spawnedLen = 16
	// children is the number of children of an inner node of the skynet.
	children = 10
	// patience bounds an ask, for contenders that need a bound.
	patience = time.Minute
)

// A contender does the work of the table in its own way. Its methods prepare the work; only
// the run of the returned trial is timed.
type contender interface {
	// tell makes every sender send as its order says.
	tell(load) trial
	// ask makes every sender ask for twice a number, one question after another, as its
	// order says.
	ask(load) trial
	// pingPong makes pairs of actors send a ball back and forth, hits times per pair.
	pingPong(pairs, hits int) trial
	// spawn starts n actors, which then wait for messages.
	spawn(n int) trial
	// skynet grows a tree of actors with the given number of leaves, a power of children.
	// The leaves send their numbers to their parents, which send the sum to theirs. Each
	// stops after it has sent.
	skynet(leaves int) trial
}

// A trial is work that is ready to run.
type trial struct {
	run func() error // returns when all work is done, with an error if a result is wrong
	end func() error // releases the resources of the trial
}

// A contestant is a contender with its name in the table.
type contestant struct {
	name string
	contender
}

// contestants holds ours first, then its rivals.
var contestants = []contestant{{"perdure", ours{}}, {"proto.actor", protoActor{}}, {"channel", channel{}}}

// A load says which sender sends to which receivers. It is the same for every contender.
type load struct {
	receivers int
	orders    [][]uint32 // for each sender, its receivers in order
	rounds    int        // number of times that each sender goes through its order
}

// want returns the number of messages for each receiver.
func (l load) want() []uint64 {
	want := make([]uint64, l.receivers)
	for _, order := range l.orders {
		for _, r := range order {
			want[r] += uint64(l.rounds)
		}
	}
	return want
}

// each calls f for every message of a sender, until f returns an error.
func (l load) each(sender int, f func(receiver uint32, n uint64) error) error {
	n := uint64(0)
	for range l.rounds {
		for _, r := range l.orders[sender] {
			if err := f(r, n); err != nil {
				return err
			}
			n++
		}
	}
	return nil
}

// A work is a row of the table.
type work struct {
	name string
	n    int // approximate number of operations of a measurement
	prep func(c contender, n int) (t trial, operations int)
}

var works = []work{
	tellWork("tell 1-1", 4_000_000, parties{1, 1}, inTurn),
	tellWork("tell 4-1", 4_000_000, parties{4, 1}, inTurn),
	tellWork("tell 4-1000", 4_000_000, parties{4, 1000}, inTurn),
	tellWork("tell 20-2000 at random", 4_000_000, parties{20, 2000}, atRandom),
	askWork("ask 1-1", 400_000, parties{1, 1}),
	askWork("ask 64-1", 400_000, parties{64, 1}),
	askWork("ask 64-1000", 400_000, parties{64, 1000}),
	pingPongWork("ping-pong 1", 2_000_000, 1),
	pingPongWork("ping-pong 64", 2_000_000, 64),
	{"spawn", 1_000_000, func(c contender, n int) (trial, int) { return c.spawn(n), n }},
	{"skynet", 1_000_000, func(c contender, n int) (trial, int) {
		leaves := 1
		for leaves < n {
			leaves *= children
		}
		return c.skynet(leaves), leaves
	}},
}

// parties are the numbers of senders and receivers of a tell or an ask.
type parties struct{ senders, receivers int }

// inTurn returns an order that goes through the receivers one after another.
func inTurn(p parties, _ int) []uint32 {
	order := make([]uint32, max(p.receivers, 64))
	for i := range order {
		order[i] = uint32(i % p.receivers)
	}
	return order
}

// atRandom returns an order of random receivers, the same in each process.
func atRandom(p parties, sender int) []uint32 {
	r := rand.New(rand.NewPCG(uint64(sender), 1))
	order := make([]uint32, 8*1024)
	for i := range order {
		order[i] = r.Uint32N(uint32(p.receivers))
	}
	return order
}

// newLoad spreads about n messages over the senders, at least one order each.
func newLoad(p parties, order func(p parties, sender int) []uint32, n int) (l load, messages int) {
	l = load{receivers: p.receivers, orders: make([][]uint32, p.senders)}
	once := 0
	for i := range l.orders {
		l.orders[i] = order(p, i)
		once += len(l.orders[i])
	}
	l.rounds = (n + once - 1) / once
	return l, l.rounds * once
}

func tellWork(name string, n int, p parties, order func(p parties, sender int) []uint32) work {
	return work{name, n, func(c contender, n int) (trial, int) {
		l, messages := newLoad(p, order, n)
		return c.tell(l), messages
	}}
}

func askWork(name string, n int, p parties) work {
	return work{name, n, func(c contender, n int) (trial, int) {
		l, messages := newLoad(p, inTurn, n)
		return c.ask(l), messages
	}}
}

func pingPongWork(name string, n, pairs int) work {
	return work{name, n, func(c contender, n int) (trial, int) {
		hits := max(n/pairs, 1)
		return c.pingPong(pairs, hits), hits * pairs
	}}
}

// measure does a work once and returns its operations per second.
func measure(c contestant, w work) (rate float64, err error) {
	t, operations := w.prep(c, w.n)
	runtime.GC()
	begin := time.Now()
	if err := t.run(); err != nil {
		return 0, fmt.Errorf("%s, %s: %w", c.name, w.name, err)
	}
	took := time.Since(begin)
	if err := t.end(); err != nil {
		return 0, fmt.Errorf("%s, %s: end: %w", c.name, w.name, err)
	}
	return float64(operations) / took.Seconds(), nil
}

// wrongAnswer returns the error of an ask with a wrong answer.
func wrongAnswer(n, got uint64) error {
	return fmt.Errorf("the answer to %d is %d, want %d", n, got, 2*n)
}

// wrongSum returns an error if the sum of a skynet is wrong.
func wrongSum(leaves int, got uint64) error {
	if want := uint64(leaves) * uint64(leaves-1) / 2; got != want {
		return fmt.Errorf("the sum of %d leaves is %d, want %d", leaves, got, want)
	}
	return nil
}
