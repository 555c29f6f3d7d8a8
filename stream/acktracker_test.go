package stream

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/perdure/perdure/store"
)

// A trackerModel is a model of an ackTracker in the simplest form: it keeps all commits and
// looks at all of them in each step.
type trackerModel struct {
	l       *ackTracker
	now     time.Time
	read    store.Position
	commits []*modelCommit
	given   []store.Position // positions whose save has begun and has no outcome yet
	kept    store.Position
	taken   store.Position    // highest commit that was delivered for the first time
	changed func(*ackTracker) // breaks the ackTracker after each step, if it is set
}

type modelCommit struct {
	through store.Position
	events  int
	unit    *unit // set once the commit was delivered
	taken   bool  // is delivered and not answered
	late    time.Time
	spent   bool
	done    bool
}

const (
	modelOpenMax   = 8
	modelAttempts  = 3
	modelSaveEvery = 4
	modelSaveAfter = 10 * time.Second
)

func newTrackerModel() *trackerModel {
	c := &SubscriptionConfig{OpenMax: modelOpenMax, AttemptsMax: modelAttempts, SaveEvery: modelSaveEvery, SaveAfter: modelSaveAfter}
	return &trackerModel{l: newAckTracker(c, 0, 0), now: time.Unix(0, 0)}
}

// done is the position up to which everything is acknowledged.
func (m *trackerModel) done() store.Position {
	var last store.Position
	for _, c := range m.commits {
		if !c.done {
			return last
		}
		last = c.through
	}
	return last
}

// window returns the number of events and commits above done.
func (m *trackerModel) window() (events, commits int) {
	done := m.done()
	for _, c := range m.commits {
		if c.through > done && c.events > 0 {
			events += c.events
			commits++
		}
	}
	return events, commits
}

// out returns the commits that are delivered and not answered.
func (m *trackerModel) out() (all []*modelCommit) {
	for _, c := range m.commits {
		if c.taken {
			all = append(all, c)
		}
	}
	return all
}

// step carries out one byte as an action, and returns a difference between ackTracker and
// model, if there is one.
func (m *trackerModel) step(b byte) error {
	m.now = m.now.Add(time.Second)
	arg := int(b >> 3)
	var err error
	switch b & 7 {
	case 0, 1:
		m.add(arg)
	case 2:
		err = m.take()
	case 3, 4:
		m.answer(arg)
	case 5:
		m.nack(arg)
	case 6:
		err = m.save()
	case 7:
		m.keep(arg)
	}
	if m.changed != nil {
		m.changed(m.l)
	}
	if err != nil {
		return err
	}
	return m.check()
}

func (m *trackerModel) add(arg int) {
	events := arg % 4 // 0: nothing was selected
	if arg == 31 {
		events = 3 * modelOpenMax
	}
	window, commits := m.window()
	if room := commits == 0 || window+events <= modelOpenMax; room != m.l.room(events) && events > 0 {
		panic(fmt.Sprintf("room for %d events beside %d: got %t", events, window, !room))
	}
	if !m.l.room(events) {
		return
	}
	m.read += store.Position(events + arg%2 + 1)
	m.commits = append(m.commits, &modelCommit{through: m.read, events: events, done: events == 0})
	m.l.add(&Commit{Events: make([]store.Event, events), Through: m.read}, m.now)
}

// take compares the delivered unit with the lowest commit that is due, or else the
// first one that was never delivered.
func (m *trackerModel) take() error {
	var want *modelCommit
	for _, c := range m.commits {
		if !c.late.IsZero() && !c.late.After(m.now) {
			want = c
			break
		}
	}
	for _, c := range m.commits {
		if want == nil && c.unit == nil && !c.done {
			want = c
		}
	}
	u := m.l.take(m.now)
	switch {
	case want == nil && u == nil:
		return nil
	case want == nil || u == nil || u.commit.Through != want.through:
		return fmt.Errorf("took %+v, want %+v", u, want)
	case want.unit == nil && want.through <= m.taken:
		return fmt.Errorf("took %v for the first time after %v", want.through, m.taken)
	}
	m.taken = max(m.taken, want.through)
	want.unit, want.taken, want.late = u, true, time.Time{}
	return nil
}

func (m *trackerModel) answer(arg int) {
	out := m.out()
	if len(out) == 0 {
		return
	}
	c := out[arg%len(out)]
	if arg < 24 {
		m.l.ack(c.unit, m.now)
		c.taken, c.done = false, true
		return
	}
	m.l.ackThrough(c.unit, m.now)
	for _, b := range m.commits {
		if b.through <= c.through && !b.spent && !b.done {
			b.taken, b.done, b.late = false, true, time.Time{}
		}
	}
}

func (m *trackerModel) nack(arg int) {
	for _, c := range m.commits {
		if c.spent { // DeadLetter decides
			c.spent = false
			if arg%2 == 0 {
				m.l.ack(c.unit, m.now)
				c.done = true
			} else {
				c.late = m.now.Add(time.Duration(arg) * time.Second)
				m.l.again(c.unit, c.late)
			}
			return
		}
	}
	out := m.out()
	if len(out) == 0 {
		return
	}
	c := out[arg%len(out)]
	due := m.now.Add(time.Duration(arg) * time.Second)
	c.taken = false
	if c.spent = m.l.nack(c.unit, nil, due); !c.spent {
		c.late = due
	}
	if spent := c.unit.attempt >= modelAttempts; spent != c.spent {
		panic(fmt.Sprintf("attempt %d of %d: spent is %t", c.unit.attempt, modelAttempts, c.spent))
	}
}

func (m *trackerModel) save() error {
	if len(m.given) > 0 {
		return nil // only one save at a time
	}
	p, ok := m.l.save()
	if ok != (m.done() > m.kept) {
		return fmt.Errorf("save with %v kept: got %v, %t, want %v", m.kept, p, ok, m.done())
	}
	if ok {
		m.given = append(m.given, p)
	}
	return nil
}

func (m *trackerModel) keep(arg int) {
	if len(m.given) == 0 {
		return
	}
	kept := arg%3 > 0
	m.l.keep(m.given[0], kept, m.now)
	if kept {
		m.kept = m.given[0]
	}
	m.given = nil
}

func (m *trackerModel) check() error {
	done := m.done()
	if m.l.done != done {
		return fmt.Errorf("done: got %v, want %v", m.l.done, done)
	}
	if m.l.saved != m.kept {
		return fmt.Errorf("saved: got %v, want %v", m.l.saved, m.kept)
	}
	for _, p := range m.given {
		if p > done {
			return fmt.Errorf("%v is being saved, although only %v is done", p, done)
		}
	}
	events, commits := m.window()
	if m.l.open != events || len(m.l.units) != commits {
		return fmt.Errorf("window: got %d events of %d commits, want %d of %d", m.l.open, len(m.l.units), events, commits)
	}
	if events > modelOpenMax && commits > 1 {
		return fmt.Errorf("window has %d events of %d commits, at most %d are allowed", events, commits, modelOpenMax)
	}
	var due time.Time
	for _, c := range m.commits {
		due = earlier(due, c.late)
	}
	if got := m.l.due(); !got.Equal(due) {
		return fmt.Errorf("due: got %v, want %v", got, due)
	}
	at := m.l.saveAt()
	switch {
	case done > m.kept && len(m.given) == 0 && (at.IsZero() || at.After(m.now.Add(modelSaveAfter))):
		return fmt.Errorf("done is %v, kept is %v, to be saved at %v, and it is %v", done, m.kept, at, m.now)
	case done == m.kept && !at.IsZero():
		return fmt.Errorf("nothing to save, but it is due at %v", at)
	}
	return nil
}

// play runs steps and returns the first difference.
func (m *trackerModel) play(steps []byte) error {
	for i, b := range steps {
		if err := m.step(b); err != nil {
			return fmt.Errorf("after step %d, %08b: %w", i, b, err)
		}
	}
	return nil
}

func randomSteps(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	steps := make([]byte, n)
	for i := range steps {
		steps[i] = byte(r.Uint32())
	}
	return steps
}

func FuzzAckTracker(f *testing.F) {
	for seed := range uint64(16) {
		f.Add(randomSteps(seed, 200))
	}
	f.Fuzz(func(t *testing.T, steps []byte) {
		if err := newTrackerModel().play(steps); err != nil {
			t.Error(err)
		}
	})
}

func TestAckTrackerDoesWhatItsModelSays(t *testing.T) {
	t.Parallel()
	for seed := range uint64(100) {
		if err := newTrackerModel().play(randomSteps(seed, 500)); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func TestAckTrackerModelCatchesBrokenTrackers(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*ackTracker){
		"moves over what is not acknowledged": func(l *ackTracker) {
			for _, u := range l.units {
				if u.state == unitDone {
					l.done = u.commit.Through
				}
			}
		},
		"does not move over what was not selected": func(l *ackTracker) {
			if len(l.units) == 0 && l.read > 0 {
				l.done = l.read - 1
			}
		},
		"hands out in reverse": func(l *ackTracker) {
			if l.fresh+1 < len(l.units) {
				l.units[l.fresh], l.units[l.fresh+1] = l.units[l.fresh+1], l.units[l.fresh]
			}
		},
		"forgets what was refused": func(l *ackTracker) { l.late = nil },
		"takes what is being saved for saved": func(l *ackTracker) {
			if l.dirty.IsZero() {
				l.saved = l.done
			}
		},
		"takes too many": func(l *ackTracker) { l.open = 0 },
		"never saves":    func(l *ackTracker) { l.dirty = time.Time{} },
	} {
		caught := 0
		for seed := range uint64(20) {
			caught += wrong(randomSteps(seed, 500), change)
		}
		if caught == 0 {
			t.Errorf("an ackTracker that %s passes", name)
		}
	}
}

// wrong returns 1 if the model detects the broken ackTracker.
func wrong(steps []byte, change func(*ackTracker)) (n int) {
	defer func() {
		if recover() != nil {
			n = 1
		}
	}()
	m := newTrackerModel()
	m.changed = change
	if m.play(steps) != nil {
		return 1
	}
	return 0
}
