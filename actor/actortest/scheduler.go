package actortest

import (
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/perdure/perdure/actor"
)

// StepsMax bounds the steps of [Scheduler.Run].
const StepsMax = 1_000_000

// A Scheduler decides which actor works next. A step is one turn of one actor, which
// handles at most one message. Nothing happens between two steps, so the order of all work
// is the order of the steps: a message makes its receiver wait behind, or among, the actors
// that wait already. The actors of such a system are listed, walked, notified and stopped
// in the order in which they were spawned and began to watch, so the same program and seed
// make the same steps each time. (Time is not included: a timer fires when it is due.)
//
// [actor.Ref.Run] and [actor.Ask] still run an idle actor at once, on their own goroutine.
// An Ask that has to wait needs another goroutine to make the steps.
type Scheduler struct {
	mu    sync.Mutex
	turns []func()
	rand  *rand.Rand // nil: the order of arrival
	free  bool
}

// NewScheduler returns a scheduler that runs actors in the order in which they got work.
func NewScheduler() *Scheduler { return &Scheduler{} }

// NewShuffler returns a scheduler that chooses the next actor at random. The same seed
// makes the same choices.
func NewShuffler(seed uint64) *Scheduler {
	return &Scheduler{rand: rand.New(rand.NewPCG(seed, 0))}
}

// NewSystem returns a system whose turns the scheduler runs. At the end of the test the
// scheduler is freed (see [Scheduler.Free]), and the system is shut down as by the function
// [NewSystem].
func (s *Scheduler) NewSystem(t testing.TB, c actor.Config) *actor.System {
	t.Helper()
	c.Executor = s.execute
	system := NewSystem(t, c)
	t.Cleanup(s.Free)
	return system
}

func (s *Scheduler) execute(turn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.free {
		go turn()
		return
	}
	s.turns = append(s.turns, turn)
}

// Len returns the number of waiting turns.
func (s *Scheduler) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.turns)
}

// Step runs one turn and returns when it has ended. It returns false if no turn waits.
func (s *Scheduler) Step() bool {
	s.mu.Lock()
	if len(s.turns) == 0 {
		s.mu.Unlock()
		return false
	}
	i := 0
	if s.rand != nil {
		i = s.rand.IntN(len(s.turns))
	}
	turn := s.turns[i]
	s.turns = append(s.turns[:i], s.turns[i+1:]...)
	s.mu.Unlock()
	// A goroutine of its own, because a behavior may end it.
	done := make(chan struct{})
	go func() {
		defer close(done)
		turn()
	}()
	<-done
	return true
}

// Run runs steps until no turn waits, and returns their number. It fails the test after
// [StepsMax].
func (s *Scheduler) Run(t testing.TB) int {
	t.Helper()
	for n := range StepsMax {
		if !s.Step() {
			return n
		}
	}
	t.Fatalf("there is still something to do after %d steps", StepsMax)
	return StepsMax
}

// Free runs every turn on a goroutine of its own, both the waiting turns and later ones.
func (s *Scheduler) Free() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = true
	for _, turn := range s.turns {
		go turn()
	}
	s.turns = nil
}
