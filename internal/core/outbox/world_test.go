package outbox_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/perdure/perdure/internal/core/outbox"
	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// Faults of the shell, in addition to the faults of [outbox.Queue.Break].
const (
	dispatchBeforeCommit = "messages are dispatched before the commit"
	doneBeforeHandled    = "rows are removed before they are handled"
	ignoreFlows          = "the order of flows is ignored"
	scanBehind           = "a scan goes on behind what it has left out"
	retryAtOnce          = "retries do not wait"
	ignoreDoubt          = "commits in doubt are ignored"
)

// The limits of the queues of a world are so tight that the random steps reach every path
// around them.
var (
	tight  = outbox.Limits{Window: 4, FlowMax: 2, TargetMax: 3, InFlight: 3, TargetInFlight: 2, Late: 1}
	policy = outbox.Policy{AttemptsMax: 3, BackoffMin: 10 * time.Millisecond, BackoffMax: 15 * time.Millisecond}
)

// A world is a queue with a model of everything around it: the store, the committer, the
// handlers, the clock and the crashes. It takes random steps from a seed, and records the first
// violation of a promise.
type world struct {
	random *rand.Rand
	fault  string
	now    time.Time
	epoch  int // number of crashes so far
	queue  *outbox.Queue
	load   int  // percentage of steps that commit messages
	clock  bool // the queue receives the time of day, by which the store reads
	err    error
	calm   bool // no step fails any more
	order  bool // a message that fails for good halts its flow
	limits outbox.Limits

	rows     map[uint64]*store.Message // the messages in the store
	sequence uint64
	facts    map[uint64]*fact // state of every message that was ever committed
	sent     []*volatile

	commits   []*store.Message // delivered before the commit, by a fault
	announce  []news
	flight    []*delivery
	item      []store.Settlement // settlements at the store
	itemState itemState
	scan      *scan
	fetches   []*fetch
}

// A fetch reads one message again. The result may be out of date when the queue gets it.
type fetch struct {
	row     *outbox.Row
	read    bool
	message *store.Message
}

// A fact records the fate of a message.
type fact struct {
	id       store.ID
	flow     string // empty if the message is unordered
	timer    bool
	unparked bool
	waiting  bool // the message was unparked, and has not been delivered since
	revived  bool // the queue knows that it was unparked
	excused  bool // the message may end without a delivery
	handled  int
	finished int // epoch in which it was handled, if the queue knows
	over     int // epoch in which it left its flow
	done     int // epoch in which it was handled
	tried    int // epoch of the last attempt that failed
	until    time.Time
}

// A volatile is an effect that is tried at most once.
type volatile struct {
	source store.Key
	epoch  int
	tries  int
}

type delivery struct {
	row  *outbox.Row
	gone bool // its target has committed and removed the row
}

type itemState int

const (
	noItem itemState = iota
	onItsWay
	stored
)

// A scan reads the store in pages. A page may be out of date when the queue gets it.
type scan struct {
	by    time.Time
	plan  outbox.Scan
	after *store.Message
	page  []*store.Message
}

func newWorld(seed uint64, fault string) *world {
	w := &world{
		random: rand.New(rand.NewPCG(seed, 0)), fault: fault, now: time.Unix(1000, 0),
		rows: map[uint64]*store.Message{}, facts: map[uint64]*fact{},
	}
	w.limits = tight
	w.epoch, w.load, w.clock = 1, 1+w.random.IntN(25), w.random.IntN(2) == 0
	if w.order = w.random.IntN(2) == 0; w.order {
		w.limits.HaltedMax = 1 + w.random.IntN(4)
	}
	w.queue = outbox.New(w, w.limits)
	return w
}

// Policy is part of [outbox.Shell].
func (w *world) Policy(*store.Message) outbox.Policy {
	p := policy
	p.KeepOrder = w.order
	return p
}

// Jitter is part of [outbox.Shell].
func (w *world) Jitter(d time.Duration) time.Duration {
	if d < policy.BackoffMin || d > time.Second {
		w.failf("a pause of %v, want %v to %v", d, policy.BackoffMin, time.Second)
	}
	if w.fault == retryAtOnce {
		return 0
	}
	return d - time.Duration(w.random.Int64N(int64(d)/2+1))
}

func (w *world) failf(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf(format, args...)
	}
}

// run takes random steps, lets everything come to rest from time to time, and returns the first
// violation.
func (w *world) run(steps int) error {
	const rests = 4
	for range rests {
		w.calm = false
		for range steps / rests {
			if w.err != nil {
				return w.err
			}
			w.step()
			w.queue.Break(w.fault)
		}
		w.calm = true
		w.rest()
		for w.order && w.err == nil && w.unpark(func(m *store.Message) bool { return m.Halted }) {
			w.rest() // the messages behind it continue, and another message may halt there
		}
	}
	return w.err
}

func (w *world) step() {
	switch n := w.random.IntN(100); {
	case n < w.load:
		w.commit()
	case n < 36:
		w.tell()
	case n < 52:
		w.next()
	case n < 68:
		w.finish()
	case n < 78:
		w.settle()
	case n < 86:
		w.read()
	case n < 88:
		w.fetch()
	case n < 90:
		w.send()
	case n < 93:
		w.unpark(func(m *store.Message) bool { return m.Parked })
	case n < 94:
		w.remove()
	case n < 99:
		w.now = w.now.Add(time.Duration(w.random.IntN(8)) * time.Millisecond)
	default:
		w.crash()
	}
}

// commit stores messages of one source. The queue learns of them later.
func (w *world) commit() {
	source := store.Key{Kind: "source", ID: fmt.Sprint(w.random.IntN(2))}
	var told []*store.Message
	for range 1 + w.random.IntN(3) {
		w.sequence++
		m := &store.Message{
			Sequence: w.sequence, ID: store.ID{byte(w.random.Uint32()), byte(w.sequence), 1}, Source: source,
			Type: fmt.Sprint("type ", w.random.IntN(2)), Time: w.now, Unordered: w.random.IntN(8) == 0,
		}
		if w.random.IntN(2) == 0 {
			m.Target = store.Key{Kind: "target", ID: "1"}
		}
		if w.random.IntN(6) == 0 {
			m.Timer = fmt.Sprint(w.sequence)
			m.Due = w.now.Add(time.Duration(w.random.IntN(40)-5) * time.Millisecond)
			if w.random.IntN(4) == 0 {
				m.Due = extremes[w.random.IntN(len(extremes))]
			}
			m = keeps(m)
		}
		if w.fault == dispatchBeforeCommit {
			w.commits = append(w.commits, m)
		} else {
			w.store(m)
		}
		c := *m
		c.Unordered = c.Unordered || w.fault == ignoreFlows
		told = append(told, &c)
	}
	if w.fault != dispatchBeforeCommit && w.random.IntN(10) == 0 {
		if w.fault != ignoreDoubt { // the commit reports an error, and is stored all the same
			w.queue.OutcomeUnknown()
		}
		return
	}
	w.announce = append(w.announce, news{list: told})
}

// Due times at the limits of a store's range, and around the time that a store keeps as "no due
// time". The last two lie behind the end of a world.
var extremes = []time.Time{
	time.Unix(0, math.MinInt64), time.Unix(0, math.MinInt64+1), time.Unix(0, -1), time.Unix(0, 0), time.Unix(0, 1),
	time.Unix(0, math.MaxInt64-1), time.Unix(0, math.MaxInt64),
}

// keeps returns m in the form in which a store keeps it.
func keeps(m *store.Message) *store.Message {
	kept, err := store.DecodeMessage(store.AppendMessage(nil, m))
	if err != nil {
		panic(err)
	}
	return kept
}

// look passes the time of day to the queue, as a shell does before each other call.
func (w *world) look() {
	if w.clock {
		w.queue.Clock(w.now, w.now)
	}
}

func (w *world) store(m *store.Message) {
	w.rows[m.Sequence] = m
	f := &fact{id: m.ID, timer: m.Timer != ""}
	if !m.Unordered && m.Timer == "" {
		f.flow = fmt.Sprint(m.Source, m.Target)
		if m.Target.IsZero() {
			f.flow = fmt.Sprint(m.Source, m.Type)
		}
	}
	w.facts[m.Sequence] = f
}

// tell reports to the queue the first committed message that it does not know.
func (w *world) tell() {
	if len(w.announce) == 0 {
		if len(w.commits) > 0 && w.random.IntN(3) == 0 {
			w.store(w.commits[0])
			w.commits = w.commits[1:]
		}
		return
	}
	n := w.announce[0]
	w.announce = w.announce[1:]
	for _, m := range n.list {
		f := w.facts[m.Sequence]
		if f == nil {
			continue
		}
		f.revived = f.revived || f.waiting
		if f.done == w.epoch && w.rows[m.Sequence] != nil {
			f.finished = w.epoch // the queue must remember this until the row is gone
		}
	}
	w.look()
	switch {
	case n.unparked:
		w.queue.Unparked(n.list[0], w.now)
	case n.dropped:
		w.queue.Dropped(n.list[0].Sequence, w.now)
	default:
		w.queue.Committed(n.list, w.now)
	}
}

// news are stored messages that the queue has yet to learn of.
type news struct {
	list              []*store.Message
	unparked, dropped bool
}

// next takes a message from the queue, if the queue returns one.
func (w *world) next() bool {
	w.look()
	r := w.queue.Next(w.now)
	if r == nil {
		return false
	}
	busy := 1
	for _, d := range w.flight {
		if class(d.row.Message) == class(r.Message) {
			busy++
		}
	}
	if busy > tight.InFlight {
		w.failf("%d deliveries of the class %q are under way, want at most %d", busy, class(r.Message), tight.InFlight)
	}
	if r.Message.Sequence == 0 {
		v := r.Value.(*volatile)
		if v.tries++; v.tries > 1 || v.epoch != w.epoch {
			w.failf("an effect of %v is tried %d times, in epoch %d, sent in %d", v.source, v.tries, w.epoch, v.epoch)
		}
		w.inOrder(v)
	} else {
		w.checkNext(r.Message)
	}
	w.flight = append(w.flight, &delivery{row: r})
	if w.fault == doneBeforeHandled {
		delete(w.rows, r.Message.Sequence)
	}
	return true
}

// class returns the name of the messages that share limits with m.
func class(m *store.Message) string {
	switch {
	case m.Sequence == 0:
		return "sent"
	case !m.Due.IsZero():
		return "timer"
	case m.Target.IsZero():
		return m.Type
	}
	return "message"
}

// inOrder checks that v is the first effect of its source that was not tried.
func (w *world) inOrder(v *volatile) {
	for _, o := range w.sent {
		if o == v {
			return
		}
		if o.source == v.source && o.epoch == w.epoch && o.tries == 0 {
			w.failf("an effect of %v overtakes another one", v.source)
		}
	}
}

// checkNext checks a message that the queue returns for delivery.
func (w *world) checkNext(m *store.Message) {
	f := w.facts[m.Sequence]
	if f == nil {
		w.failf("message %d is handed out, and was never committed", m.Sequence)
		return
	}
	f.waiting, f.revived = false, false
	if row := w.rows[m.Sequence]; row != nil && row.Halted {
		w.failf("message %d is handed out, and is halted", m.Sequence)
	}
	if m.ID != f.id {
		w.failf("message %d has the id %v, want %v", m.Sequence, m.ID, f.id)
	}
	if f.finished == w.epoch {
		w.failf("message %d is handed out after it was handled", m.Sequence)
	}
	if m.Due.After(w.now) {
		w.failf("timer %d is handed out %v early", m.Sequence, m.Due.Sub(w.now))
	}
	if f.tried == w.epoch && w.now.Before(f.until) {
		w.failf("message %d is tried again %v early", m.Sequence, f.until.Sub(w.now))
	}
	if f.flow == "" {
		return
	}
	for _, d := range w.flight {
		if o := w.facts[d.row.Message.Sequence]; o != nil && o.flow == f.flow {
			w.failf("messages %d and %d of one flow are under way", d.row.Message.Sequence, m.Sequence)
		}
	}
	for sequence, o := range w.rows {
		of := w.facts[sequence]
		if sequence < m.Sequence && of.flow == f.flow && (!o.Parked || o.Halted) && of.over != w.epoch &&
			!of.unparked && !f.unparked && !of.timer && !f.timer {
			w.failf("message %d overtakes %d of the flow %q", m.Sequence, sequence, f.flow)
		}
	}
}

// finish ends a delivery, or commits the target of one.
func (w *world) finish() {
	if len(w.flight) == 0 {
		return
	}
	n := w.random.IntN(len(w.flight))
	d := w.flight[n]
	m := d.row.Message
	f := w.facts[m.Sequence]
	result, cause := outbox.Done, error(nil)
	switch {
	case d.gone:
		result = outbox.Gone
	case m.Sequence != 0 && !m.Target.IsZero() && (w.calm || w.random.IntN(2) == 0):
		if w.rows[m.Sequence] != nil { // otherwise another engine or operator has settled it
			delete(w.rows, m.Sequence)
			f.handled++
		}
		d.gone = true
		return
	case m.Target.IsZero() && (w.calm || w.random.IntN(2) == 0):
		if f != nil {
			f.handled++
		}
	default:
		cause = errors.New("no")
		result = []outbox.Result{outbox.Retry, outbox.Retry, outbox.Later, outbox.Never}[w.random.IntN(4)]
	}
	if f != nil {
		f.waiting, f.revived = false, false // it was unparked during this attempt: the attempt counts as one after that
	}
	w.flight = slices.Delete(w.flight, n, n+1)
	unheard := f != nil && w.unheard(m.Sequence) // the queue cannot know that it has already delivered it
	w.queue.Finished(d.row, result, cause, w.now)
	if f != nil {
		w.note(f, d.row.Message, result, unheard)
	}
}

// note records the effect of a delivery's end on the order of the following messages. The
// message m is the queue's version of it.
func (w *world) note(f *fact, m *store.Message, result outbox.Result, unheard bool) {
	pause := policy.BackoffMin
	switch {
	case result == outbox.Done || result == outbox.Gone:
		f.over, f.done = w.epoch, w.epoch
		if !unheard {
			f.finished = w.epoch
		}
		return
	case m != nil && m.Halted:
		return
	case m != nil && m.Parked:
		f.over = w.epoch
		return
	case result == outbox.Retry && m != nil && m.Attempts > 1:
		pause = policy.BackoffMax
	}
	f.tried, f.until = w.epoch, w.now.Add(pause/2)
}

// unheard reports whether the queue has yet to learn of a message.
func (w *world) unheard(sequence uint64) bool {
	return slices.ContainsFunc(w.announce, func(n news) bool {
		return slices.ContainsFunc(n.list, func(m *store.Message) bool { return m.Sequence == sequence })
	})
}

// settle takes settlements to the store, stores them, and reports the result to the queue, one
// step at a time.
func (w *world) settle() {
	switch w.itemState {
	case noItem:
		if w.item = w.queue.Settlements(1 + w.random.IntN(3)); len(w.item) > 0 {
			w.itemState = onItsWay
		}
		for _, s := range w.item {
			// A settlement that only counts an attempt leaves the message pending.
			final := s.Message == nil || s.Message.Parked
			if f := w.facts[s.Sequence]; final && f != nil && f.revived {
				w.failf("message %d is settled by what was before it was unparked", s.Sequence)
			}
		}
		return
	case onItsWay:
		if w.calm || w.random.IntN(4) > 0 {
			w.apply()
			w.itemState = stored
			return
		}
		w.queue.Unsettled(w.item)
	case stored:
		if w.calm || w.random.IntN(4) > 0 {
			w.queue.Settled(w.item)
		} else {
			w.queue.Unsettled(w.item) // the commit reports an error, and is stored
		}
	}
	w.item, w.itemState = nil, noItem
}

// apply stores the settlements that are at the store.
func (w *world) apply() {
	for _, s := range w.item {
		old := w.rows[s.Sequence]
		if old == nil {
			continue
		}
		if s.Message == nil {
			delete(w.rows, s.Sequence)
			continue
		}
		m := *s.Message
		if m.ID != old.ID || m.Source != old.Source || m.Timer != old.Timer || !m.Time.Equal(old.Time) {
			w.failf("message %d is settled as another one", s.Sequence)
		}
		if m.Attempts == 0 || m.Attempts > policy.AttemptsMax && !w.order || m.Attempts == policy.AttemptsMax && !m.Parked && !w.order || m.LastError == "" {
			w.failf("message %d is settled with %d attempts, parked %t, error %q", s.Sequence, m.Attempts, m.Parked, m.LastError)
		}
		w.rows[s.Sequence] = &m
	}
}

// read begins a scan, reads its next page, or ends it.
func (w *world) read() {
	if w.scan == nil {
		w.look()
		if w.queue.WantsScan(w.now) {
			plan := w.queue.ScanBegins()
			w.scan = &scan{by: w.now, plan: plan, after: &store.Message{Sequence: plan.After}}
		}
		return
	}
	s := w.scan
	if !w.calm && w.random.IntN(40) == 0 {
		w.queue.ScanEnded(time.Time{}, true, w.now)
		w.scan = nil
		return
	}
	if len(s.page) == 0 && (s.plan.Undue || s.plan.Timers) {
		if !s.plan.Undue && s.after.Due.IsZero() {
			s.after = &store.Message{Due: s.plan.AfterDue, Sequence: s.plan.AfterTimer}
		}
		for _, m := range w.pending(s.after, s.by, 1+w.random.IntN(3)) {
			if s.plan.Undue && !m.Due.IsZero() {
				break
			}
			s.page = append(s.page, m)
		}
		if len(s.page) == 0 {
			s.part()
		}
		return
	}
	if len(s.page) > 0 {
		m := s.page[0]
		s.page, s.after = s.page[1:], m
		c := *m
		c.Unordered = c.Unordered || w.fault == ignoreFlows
		scanned := w.queue.Scanned
		if w.fault == scanBehind {
			scanned = w.queue.ScannedBehind
		}
		if !scanned(&c) {
			s.part()
		}
		return
	}
	var due time.Time
	for _, m := range w.pending(&store.Message{}, time.Time{}, len(w.rows)) {
		if m.Due.After(s.by) && s.plan.First {
			due = m.Due
			break
		}
	}
	w.queue.ScanEnded(due, false, w.now)
	w.scan = nil
}

// fetch makes the queue ask for messages, reads one of them, or passes its result to the queue.
func (w *world) fetch() {
	for _, r := range w.queue.Fetches(1 + w.random.IntN(3)) {
		w.fetches = append(w.fetches, &fetch{row: r})
	}
	if len(w.fetches) == 0 {
		return
	}
	n := w.random.IntN(len(w.fetches))
	f := w.fetches[n]
	due, sequence := f.row.Place()
	switch {
	case !w.calm && w.random.IntN(10) == 0:
		w.queue.Fetched(f.row, nil, true, w.now)
	case !f.read:
		f.read = true
		if m := w.rows[sequence]; m != nil && (!m.Parked || m.Halted) && storecore.DueKey(m.Due) == storecore.DueKey(due) {
			c := *m
			f.message = &c
		}
		return
	default:
		w.queue.Fetched(f.row, f.message, false, w.now)
	}
	w.fetches = slices.Delete(w.fetches, n, n+1)
}

// part ends the part of a scan that is being read.
func (s *scan) part() {
	s.page = nil
	if s.plan.Undue {
		s.plan.Undue, s.after = false, &store.Message{}
	} else {
		s.plan.Timers = false
	}
}

// pending returns the due rows in the order in which a store keeps them.
func (w *world) pending(after *store.Message, by time.Time, most int) []*store.Message {
	order := func(a, b *store.Message) int {
		return cmp.Or(cmp.Compare(storecore.DueKey(a.Due), storecore.DueKey(b.Due)), cmp.Compare(a.Sequence, b.Sequence))
	}
	var list []*store.Message
	for _, m := range w.rows {
		if (!m.Parked || m.Halted) && order(m, after) > 0 && (by.IsZero() || storecore.DueKey(m.Due) <= storecore.DueBound(by)) {
			list = append(list, m)
		}
	}
	slices.SortFunc(list, order)
	return list[:min(most, len(list))]
}

func (w *world) send() {
	v := &volatile{source: store.Key{Kind: "source", ID: fmt.Sprint(w.random.IntN(2))}, epoch: w.epoch}
	waiting := 0
	for _, o := range w.sent {
		if o.epoch == w.epoch && o.tries == 0 {
			waiting++
		}
	}
	if w.queue.Volatile(&store.Message{Source: v.source}, v) {
		w.sent = append(w.sent, v)
	} else if waiting+len(w.flight) < tight.Window {
		w.failf("an effect is refused while %d wait and %d are under way", waiting, len(w.flight))
	}
}

// unpark lets an operator unpark the first parked message for which ok is true, and reports
// whether there is one. A halted message keeps its place.
func (w *world) unpark(ok func(*store.Message) bool) bool {
	m := w.first(ok)
	if m == nil {
		return false
	}
	c := *m
	c.Parked, c.Halted, c.Attempts, c.LastError = false, false, 0, ""
	w.rows[m.Sequence] = &c
	f := w.facts[m.Sequence]
	f.unparked, f.waiting = !m.Halted, true
	f.finished, f.done, f.over, f.tried = 0, 0, 0, 0
	if m.Halted && w.random.IntN(4) == 0 { // the commit reports an error, and is stored all the same
		w.queue.OutcomeUnknown()
		return true
	}
	told := c
	w.announce = append(w.announce, news{list: []*store.Message{&told}, unparked: true})
	return true
}

// remove lets an operator drop a parked message, or cancels a timer.
func (w *world) remove() {
	m := w.first(func(m *store.Message) bool { return m.Parked || m.Timer != "" && !m.Target.IsZero() })
	if m != nil {
		delete(w.rows, m.Sequence)
		w.facts[m.Sequence].excused = true
		switch {
		case !m.Parked:
		case w.random.IntN(4) == 0: // the commit reports an error, and is stored all the same
			w.queue.OutcomeUnknown()
		default:
			w.announce = append(w.announce, news{list: []*store.Message{m}, dropped: true})
		}
	}
}

// first returns the first row for which ok is true, or nil.
func (w *world) first(ok func(*store.Message) bool) *store.Message {
	for _, sequence := range slices.Sorted(maps.Keys(w.rows)) {
		if m := w.rows[sequence]; ok(m) {
			return m
		}
	}
	return nil
}

// crash drops the queue and everything around it, except the store.
func (w *world) crash() {
	if w.itemState == onItsWay && w.random.IntN(2) == 0 {
		w.apply()
	}
	w.announce, w.commits, w.flight, w.item, w.itemState, w.scan, w.fetches = nil, nil, nil, nil, noItem, nil, nil
	w.epoch++
	w.queue = outbox.New(w, w.limits)
}

// restsMax bounds the rounds until the world is at rest.
const restsMax = 5000

// rest runs without failures until nothing is left to do. The clock advances only to times that
// the queue waits for, and not beyond the end of the world.
func (w *world) rest() {
	for range restsMax {
		if w.err != nil {
			return
		}
		w.queue.Break(w.fault)
		busy := w.busy()
		w.tell()
		busy = w.next() || busy
		w.finish()
		w.settle()
		w.read()
		w.fetch()
		if busy || w.busy() || w.queue.WantsScan(w.now) || w.queue.Unsaved() {
			continue
		}
		at, ok := w.queue.Wake()
		if !ok || at.After(end) {
			w.checkRest()
			return
		}
		if !at.After(w.now) {
			w.failf("the queue wants to be woken at %v, but at %v it has nothing to do", at, w.now)
		}
		w.now = at
	}
	w.failf("not at rest after %d rounds: %d rows are in the store", restsMax, len(w.rows))
}

// end is later than all events of a world.
var end = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

func (w *world) busy() bool {
	return len(w.announce) > 0 || len(w.commits) > 0 || len(w.flight) > 0 || w.itemState != noItem || w.scan != nil || len(w.fetches) > 0
}

// isBehindHalted reports whether a message waits for one that is halted.
func (w *world) isBehindHalted(m *store.Message) bool {
	flow := w.facts[m.Sequence].flow
	for sequence, o := range w.rows {
		if flow != "" && o.Halted && w.facts[sequence].flow == flow && sequence < m.Sequence {
			return true
		}
	}
	return false
}

// halted returns the number of flows with a halted message.
func (w *world) halted() int {
	flows := map[string]bool{}
	for sequence, o := range w.rows {
		if o.Halted {
			flows[w.facts[sequence].flow] = true
		}
	}
	return len(flows)
}

// checkRest checks the promises that hold when nothing is left to do.
func (w *world) checkRest() {
	if n, _ := w.queue.Halted(); n != w.halted() {
		w.failf("the queue knows of %d halted messages, the store has %d", n, w.halted())
	}
	for sequence, m := range w.rows {
		if !m.Parked && !m.Due.After(w.now) && !w.isBehindHalted(m) {
			w.failf("message %d is stuck in the store: %s", sequence, w.queue.Dump(m))
		}
	}
	for sequence, f := range w.facts {
		if m := w.rows[sequence]; m == nil && f.handled == 0 && !f.excused {
			w.failf("message %d is gone and was never handled", sequence)
		}
	}
	for _, v := range w.sent {
		if v.epoch == w.epoch && v.tries != 1 {
			w.failf("an effect of %v is tried %d times without a crash, want once", v.source, v.tries)
		}
	}
	at, ok := w.queue.Wake()
	if next := w.pending(&store.Message{Due: w.now, Sequence: math.MaxUint64}, time.Time{}, 1); len(next) > 0 && (!ok || at.After(next[0].Due)) {
		w.failf("timer %d is due at %v, and the queue is to be woken at %v, %t", next[0].Sequence, next[0].Due, at, ok)
	}
	if rows, flight := w.queue.Load(); rows != 0 || flight != 0 {
		w.failf("%d rows are still in memory, %d of them under way", rows, flight)
	}
}
