// Package sim_test runs the protocol cores of entities, of their committer, of their outbox and
// of a projection in a world of one goroutine. One source of random numbers decides which task
// runs next and which one fails. The same seed gives exactly the same run, so a failure can be
// repeated as often as necessary.
//
//	go test ./test/sim -seeds=20000    # look longer
//	go test ./test/sim -seed=76 -v     # one run, with the end of its trace
//	go test ./test/sim -seed=76 -whole -v
package sim_test

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/internal/core/outbox"
	"github.com/perdure/perdure/internal/core/projector"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
)

const (
	// stepsMax bounds the steps of a run. A longer run does not come to rest.
	stepsMax = 50_000
	// faultyMax bounds the steps with faults, because an illness may keep clients from
	// finishing.
	faultyMax = 3000
	// traceMax bounds the lines that a failure prints.
	traceMax = 80
)

// epoch is the time at which every run begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// rescueAfter is the time for which messages are left to a node that has died, and the time
// between two looks of the others. It is longer than any other pause, and shorter than the
// retention time of receipts.
const rescueAfter = 10 * time.Minute

// stallAfter is the time for which a delivery to an entity that hangs counts.
const stallAfter = time.Second

// stepMax is the largest deviation of a clock.
const stepMax = 3 * time.Hour

// rescues is the number of times that rescueAfter passes at the end. Other messages may wait
// behind the messages that a node takes over.
const rescues = 6

// A world is one run.
//
// Everything that takes time is a task. Each step runs one task that the random source picks
// from all of them. Any task may therefore take any time, and tasks overtake each other unless
// one must end before the other begins.
type world struct {
	seed       uint64
	random     *rand.Rand
	shared     bool                     // several nodes share the store
	instant    bool                     // the store commits synchronously, without a committer
	harm       float64                  // frequency of faults in this run
	parts      int                      // number of partitions of the log
	groups     int                      // number of batches that have stored several commands
	ran        map[store.Key][]store.ID // commands whose rules have run on a durable state since its last batch
	members    map[groupKey][]store.ID  // the commands of such batches
	freed      int                      // number of halted messages about which an operator has decided
	faulty     bool                     // faults still happen
	mutant     mutant
	limits     entity.Limits
	dispatcher outbox.Limits

	segmentBounds projector.Limits

	attempts    uint32        // attempts before a message is parked
	prunes      bool          // events below snapshots are deleted
	clocks      bool          // the clocks of nodes and of the store differ, and step
	skew        time.Duration // deviation of the store's clock
	latest      time.Time     // latest time of day of any node
	stored      time.Time     // latest time that the store's clock has shown
	differ      bool          // nodes run programs with other rules
	failed      int           // time at which the store last failed a node
	ails        bool          // one illness will last until the end
	ill         *illness      // the illness that remains after all other faults
	crashes     bool          // nodes crash and stop
	timers      bool          // entities set timers
	receiptsMax int           // number of keys that an entity remembers
	receiptsFor time.Duration // time for which it remembers them

	tasks []task
	steps int
	clock int           // counter that orders events in time
	ahead time.Duration // time for which nothing has happened
	trace []string
	hash  uint64
	fault string // the first violated promise

	disk        *disk
	target      *target
	nodes       []*node
	clients     []*client
	keys        []store.Key
	rules       map[string]*entity.Rules
	builds      *rand.Rand // picks the version of the program that a node runs
	version     uint64     // versions are numbered from 0 to this one
	ops         map[store.ID]*op
	all         []*op // all calls in order
	ids         uint64
	names       int             // number of idempotency keys
	dispatchers uint64          // number of engines so far
	early       *entity.Outcome // the result of an Answer rule, for a mutant
}

// A task is an operation that has begun and will end at some time.
type task struct {
	name string
	run  func()
}

// order reports whether effects that fail for good halt their segments.
func (w *world) order() bool { return w.seed%2 == 0 }

func newWorld(seed uint64, tw mutant) *world {
	w := &world{
		seed: seed, random: rand.New(rand.NewPCG(seed, 1)), faulty: true, mutant: tw,
		ops: make(map[store.ID]*op), ran: make(map[store.Key][]store.ID), members: make(map[groupKey][]store.ID),
		keys: []store.Key{
			{Kind: "account", ID: "a"},
			{Kind: "account", ID: "b"},
			{Kind: "shelf", ID: "c"},
		},
	}
	// Runs differ in their frequency of faults: rare faults may show what frequent ones hide.
	w.keys = w.keys[w.random.IntN(3):]
	w.harm = []float64{0.3, 1, 1, 2.5}[w.random.IntN(4)]
	w.limits = entity.Limits{
		Calls: 3 + w.random.IntN(8), InFlight: 1 + w.random.IntN(6),
		Conflicts: 1 + w.random.IntN(6), LoadRetries: w.random.IntN(4), Unknowns: 2 + w.random.IntN(4),
	}
	w.shared = w.chance(0.5)
	if tw.shared {
		w.shared = true
	} else if tw.exclusive {
		w.shared = false
	}
	w.instant = tw.forgivesOnTheSpot || !tw.committer && w.chance(0.2)
	w.dispatcher = outbox.Limits{
		Window: 2 + w.random.IntN(10), FlowMax: 1 + w.random.IntN(4), InFlight: 1 + w.random.IntN(4), Late: w.random.IntN(4),
	}
	if w.chance(0.5) {
		w.dispatcher.InFlight, w.dispatcher.TargetInFlight = w.dispatcher.InFlight+8, 8
	}
	w.dispatcher.Stall = stallAfter
	if w.chance(0.5) {
		w.dispatcher.Window, w.dispatcher.FlowMax, w.dispatcher.Late = 1000, 1000, 1000
	}
	if w.shared {
		w.dispatcher.RescueEvery, w.dispatcher.RescueAfter, w.dispatcher.Poll = rescueAfter, rescueAfter, rescueAfter
		w.dispatcher.Grace = 20 * time.Millisecond
	}
	w.attempts = 2 + uint32(w.random.IntN(4))
	w.prunes, w.crashes, w.timers = w.chance(0.5), w.chance(0.7), w.chance(0.6)
	w.receiptsMax = []int{1, 2, 4, 1000, 1000}[w.random.IntN(5)]
	w.receiptsFor = []time.Duration{100 * time.Millisecond, time.Hour, time.Hour, time.Hour}[w.random.IntN(4)]
	w.ails = w.chance(0.5)
	if seed%3 == 0 && !w.ails { // few enough that messages without a rule fill them
		w.dispatcher.PlacesMax = 4 + int(seed/3%3)
	}
	w.clocks, w.differ = w.chance(0.4), w.shared && w.chance(0.4)
	w.builds = rand.New(rand.NewPCG(seed, 2))
	w.version = []uint64{0, 0, 1, 2}[w.builds.IntN(4)]
	w.rules = newRules(w)
	if w.parts = 1; w.chance(0.3) {
		w.parts = segmentsMax // one segment for each partition
	}
	w.disk = newDisk(w)
	w.segmentBounds, w.target = w.segmentLimits(), newTarget(w)
	w.target.mark()
	nodes := 1
	if w.shared {
		nodes = 2 + w.random.IntN(2)
	}
	for i := range nodes {
		w.nodes = append(w.nodes, newNode(w, i))
	}
	for i := range 3 + w.random.IntN(6) {
		w.clients = append(w.clients, &client{w: w, name: i, left: 8 + w.random.IntN(12), seen: make(map[store.Key]store.Version)})
	}
	return w
}

// run executes the whole run. It returns the violated promise, or an empty text.
func (w *world) run() (fault string) {
	defer func() {
		if v := recover(); v != nil {
			w.broken("panic: %v\n%s", v, debug.Stack())
			fault = w.fault
		}
	}()
	for _, c := range w.clients {
		c.next()
	}
	for patience := w.random.IntN(400); w.step() && (w.faulty || w.ill == nil); {
		if w.faulty && (w.quiet() || w.steps > faultyMax) {
			if patience--; patience < 0 {
				w.calm()
			}
		}
	}
	w.calm()
	w.suffer()
	w.rest()
	if w.clocks {
		w.note("nothing happens until timers are due that were set by clocks ahead")
		w.ahead += 2 * stepMax
		w.rest()
	}
	w.disk.outbox.auditOrphans()
	w.operateAll()
	w.disk.outbox.auditOrphans()
	if w.shared {
		// A group of a crashed node may have reached the store after its successor read the
		// outbox. Only a rescue finds its messages.
		w.note("nothing happens for so long that what is left is rescued")
		for range rescues {
			w.ahead += 2 * rescueAfter
			w.rest()
			w.operateAll()
		}
	}
	w.audit()
	return w.fault
}

// calm ends all faults except an illness, and sets the clocks right.
func (w *world) calm() {
	if !w.faulty {
		return
	}
	w.faulty, w.skew = false, 0
	w.note("nothing fails any more")
	for _, n := range w.nodes {
		n.skew = 0
		n.dispatcher.wake()
	}
}

// step runs one task, and may trigger an accident.
func (w *world) step() bool {
	if w.steps++; w.steps > stepsMax {
		w.broken("it does not come to rest in %d steps", stepsMax)
	}
	if w.fault != "" {
		return false
	}
	if len(w.tasks) == 0 && !w.sleep() {
		return false
	}
	if w.faulty {
		w.accidents()
	}
	for _, n := range w.nodes {
		n.dispatcher.look()
		for _, l := range n.segments {
			l.look()
		}
	}
	if len(w.tasks) == 0 {
		return true
	}
	i := w.random.IntN(len(w.tasks))
	t := w.tasks[i]
	last := len(w.tasks) - 1
	w.tasks[i] = w.tasks[last]
	w.tasks = w.tasks[:last]
	w.note("%s", t.name)
	t.run()
	return true
}

// sleep advances the clock to the next event if there is no earlier work. It returns false if
// there is no further event.
func (w *world) sleep() bool {
	var until time.Time
	sooner := func(at time.Time) {
		if until.IsZero() || at.Before(until) {
			until = at
		}
	}
	for _, n := range w.nodes {
		if n.dispatcher.alarms != 0 {
			sooner(n.dispatcher.alarm)
		}
		for _, l := range n.segments {
			if at, ok := l.next(); ok {
				sooner(at)
			}
		}
	}
	if until.IsZero() || until.Sub(w.now()) >= rescueAfter/4 {
		return false // no need to wait for a rescue
	}
	if d := until.Sub(w.now()); d > 0 {
		w.note("nothing happens for %v", d)
		w.ahead += d
	}
	return true
}

// rest runs tasks until none is left.
func (w *world) rest() {
	for w.step() {
	}
}

// accidents triggers faults of nodes and of the store.
func (w *world) accidents() {
	n := w.nodes[w.random.IntN(len(w.nodes))]
	switch x := w.random.Float64() / w.harm; {
	case x < 0.007 && !w.crashes:
	case x < 0.004:
		n.crash()
	case x < 0.007:
		n.stop()
	case x < 0.03:
		n.passivate()
	case x < 0.05:
		w.disk.prune(n, w.keys[w.random.IntN(len(w.keys))])
	case x < 0.06 && !n.stops:
		w.operate(n)
	case x < 0.065 && len(n.readers) > 0:
		n.readers[w.random.IntN(len(n.readers))].die()
	case x > 0.065 && x < 0.085:
		n.meddle()
	case x > 0.085 && x < 0.095 && w.clocks:
		w.stepClock(n)
	case x > 0.095 && x < 0.1 && w.ails && w.ill == nil:
		w.falls()
	}
}

// quiet reports whether the clients have done most of their work.
func (w *world) quiet() bool {
	left := 0
	for _, c := range w.clients {
		left += c.left
	}
	return left <= len(w.clients)*2
}

// later adds a task.
func (w *world) later(run func(), format string, args ...any) {
	w.tasks = append(w.tasks, task{fmt.Sprintf(format, args...), run})
}

// tick returns a number for the present time. Later numbers are higher.
func (w *world) tick() int {
	w.clock++
	return w.clock
}

func (w *world) now() time.Time {
	return epoch.Add(time.Duration(w.steps)*time.Millisecond + w.ahead)
}

// stepClock sets a node's clock, or the store's clock, forward or back.
func (w *world) stepClock(n *node) {
	d := time.Duration(w.random.Int64N(int64(2*stepMax))) - stepMax
	if w.chance(0.4) {
		w.skew = d
		w.note("the clock of the store is off by %v", d)
		return
	}
	n.skew = d
	w.note("the clock of node %d is off by %v", n.name, d)
}

// storeClock returns the time of the store's clock.
func (w *world) storeClock() time.Time {
	t := w.now().Add(w.skew)
	if t.After(w.stored) {
		w.stored = t
	}
	return t
}

// chance is true with probability p.
func (w *world) chance(p float64) bool { return w.random.Float64() < p }

// sick is true if a read of the store is to fail.
func (w *world) sick() bool { return w.faulty && w.chance(0.1*w.harm) }

// newID returns an id that is new in this run.
func (w *world) newID() (id store.ID) {
	w.ids++
	for i := range 6 {
		id[5-i] = byte(w.ids >> (8 * i))
	}
	id[6], id[8] = 0x70, 0x80
	return id
}

// note writes a line of the trace.
func (w *world) note(format string, args ...any) {
	line := fmt.Sprintf("%4d  %s", w.steps, fmt.Sprintf(format, args...))
	w.trace = append(w.trace, line)
	h := fnv.New64a()
	h.Write(fmt.Appendf(nil, "%x%s", w.hash, line))
	w.hash = h.Sum64()
}

// broken records a violated promise. Only the first one counts.
func (w *world) broken(format string, args ...any) {
	if w.fault == "" {
		w.fault = fmt.Sprintf(format, args...)
		w.note("BROKEN: %s", w.fault)
	}
}

// audit checks the promises that hold when nothing is left to do.
func (w *world) audit() {
	if w.fault != "" {
		return
	}
	for _, c := range w.clients {
		if c.op != nil {
			w.broken("%v of client %d was never answered", c.op, c.name)
			return
		}
	}
	for _, o := range slices.Clone(w.all) {
		w.askAgain(o)
	}
	for _, n := range w.nodes {
		for _, key := range w.keys {
			w.ask(n, key)
		}
	}
	w.rest()
	for _, o := range w.all {
		if o.definite && w.disk.did[o.call.ID] {
			w.broken("%v was answered with %v and is in the log", o, o.status)
		}
	}
	w.disk.audit()
	w.auditProjection()
	for _, n := range w.nodes {
		for _, r := range n.readers {
			r.audit()
		}
	}
	for _, n := range w.nodes {
		if rows, flight := n.dispatcher.queue.Load(); rows+flight > 0 || n.dispatcher.item != nil {
			w.broken("node %d has %d messages in memory and delivers %d when all is over", n.name, rows, flight)
		}
	}
}

// askAgain repeats the first command with a key at the end. The entity must answer it.
func (w *world) askAgain(o *op) {
	if _, bad := o.call.Message.(*testv1.Misbehave); bad || o.call.Name == "" || !w.disk.first(o) {
		return
	}
	again := &op{w: w, key: o.key, node: w.nodes[w.random.IntN(len(w.nodes))], started: w.tick(), last: true}
	again.call = &entity.Call{
		Ctx: background, ID: w.newID(), Owner: again, WantState: w.chance(0.5),
		Message: o.call.Message, Name: o.call.Name, Fingerprint: o.call.Fingerprint,
	}
	w.begin(again)
	again.node.activation(o.key).deliver(again.call)
	w.rest()
	if again.replies == 0 {
		w.broken("%v was not answered when all was over", again)
	}
}

// ask asks a node for the state of an entity at the end. The answer must be the complete state.
func (w *world) ask(n *node, key store.Key) {
	o := &op{w: w, key: key, started: w.tick(), last: true}
	o.call = &entity.Call{Ctx: background, Op: entity.OpState, ID: w.newID(), Owner: o}
	w.begin(o)
	n.activation(key).deliver(o.call)
	w.rest()
	if o.replies == 0 {
		w.broken("%v was not answered when all was over", o)
	}
}

// begin registers a call.
func (w *world) begin(o *op) {
	o.since, o.sinceStored = w.now(), w.storeClock()
	w.ops[o.call.ID] = o
	w.all = append(w.all, o)
}

// tail returns the end of the trace, or all of it.
func (w *world) tail() string {
	lines := w.trace
	if !*whole {
		lines = lines[max(0, len(lines)-traceMax):]
	}
	return strings.Join(lines, "\n") + "\n"
}

func stateText(a *testv1.Account) string {
	return fmt.Sprintf("%q balance %d operations %d notes %d", a.GetOwner(), a.GetBalance(), a.GetOperations(), len(a.GetNotes()))
}
