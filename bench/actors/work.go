package main

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"time"
)

const (
	// mailboxLen is how many messages wait in a mailbox or channel, where that
	// can be said.
	mailboxLen = 1024
	// spawnedLen is that of a channel that is made only to be made.
	spawnedLen = 16
	// children is how many each node of the skynet has that is not a leaf.
	children = 10
	// patience bounds an ask, where a contender needs that.
	patience = time.Minute
)

// A contender does the work of the table in its own way. Its methods get ready;
// what is timed is the run of the trial that they return.
type contender interface {
	// tell lets every sender send as its order says.
	tell(load) trial
	// ask lets every sender ask as its order says, one question after another,
	// for the double of a number.
	ask(load) trial
	// pingPong lets so many pairs hit a ball back and forth so many times.
	pingPong(pairs, hits int) trial
	// spawn starts so many actors, which then wait for messages.
	spawn(n int) trial
	// skynet grows a tree of actors with so many leaves, a power of children.
	// The leaves send their numbers to their parents, which send the sum to
	// theirs. Each stops when it has sent.
	skynet(leaves int) trial
}

// A trial is work that is ready to be done.
type trial struct {
	run func() error // returns when all of it is done, with what was wrong
	end func() error // gives back what it took
}

// A contestant is a contender with its name in the table.
type contestant struct {
	name string
	contender
}

// contestants holds ours first, then its rivals.
var contestants = []contestant{{"perdure", ours{}}, {"proto.actor", protoActor{}}, {"channel", channel{}}}

// A load says who sends to whom, the same for every contender.
type load struct {
	receivers int
	orders    [][]uint32 // for each sender, the receivers in order
	rounds    int        // how often each sender goes through its order
}

// want returns how many messages each receiver gets.
func (l load) want() []uint64 {
	want := make([]uint64, l.receivers)
	for _, order := range l.orders {
		for _, r := range order {
			want[r] += uint64(l.rounds)
		}
	}
	return want
}

// each calls f for every message of a sender, until it fails.
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
	n    int // how many operations, about, make a measurement
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

// parties are those who take part in a tell or an ask.
type parties struct{ senders, receivers int }

// inTurn lets a sender go through the receivers one after the other.
func inTurn(p parties, _ int) []uint32 {
	order := make([]uint32, max(p.receivers, 64))
	for i := range order {
		order[i] = uint32(i % p.receivers)
	}
	return order
}

// atRandom lets a sender draw the receivers, the same in each process.
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

// measure does a work once and returns its operations a second.
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

// wrongAnswer is the error of an ask.
func wrongAnswer(n, got uint64) error {
	return fmt.Errorf("the answer to %d is %d, want %d", n, got, 2*n)
}

// wrongSum returns the error of a skynet, if there is one.
func wrongSum(leaves int, got uint64) error {
	if want := uint64(leaves) * uint64(leaves-1) / 2; got != want {
		return fmt.Errorf("the sum of %d leaves is %d, want %d", leaves, got, want)
	}
	return nil
}
