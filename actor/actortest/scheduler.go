package actortest

import (
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/perdure/perdure/actor"
)

// StepsMax is how many steps [Scheduler.Run] makes before it gives up.
const StepsMax = 1_000_000

// A Scheduler decides which actor works next. A step is one turn of one actor,
// which handles at most one message. Nothing happens between two steps, so the
// order of everything is that of the steps: what is sent makes its receiver wait
// behind, or among, those that wait already. The actors of such a system are listed,
// walked, told and stopped in the order in which they were spawned and have begun
// to watch, so the same program and seed make the same steps each time. (Time is
// not part of it: a timer fires when it does.)
//
// [actor.Ref.Run] and [actor.Ask] still run an idle actor at once, on their own
// goroutine. An Ask that has to wait needs another goroutine to make the steps.
type Scheduler struct {
	mu    sync.Mutex
	turns []func()
	rand  *rand.Rand // nil: in the order of arrival
	free  bool
}

// NewScheduler returns a scheduler that lets actors work in the order in which
// they have got something to do.
func NewScheduler() *Scheduler { return &Scheduler{} }

// NewShuffler returns a scheduler that chooses at random who works next. The
// same seed makes the same choices.
func NewShuffler(seed uint64) *Scheduler {
	return &Scheduler{rand: rand.New(rand.NewPCG(seed, 0))}
}

// NewSystem returns a system whose turns the scheduler makes. At the end of the
// test it is freed, and shut down as by [NewSystem].
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

// Len returns how many turns wait.
func (s *Scheduler) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.turns)
}

// Step makes one turn and returns when it is over. It returns false if there
// is none.
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

// Run makes steps until there is nothing to do any more, and returns how many
// there were. It fails the test after [StepsMax].
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

// Free gives every turn a goroutine, those that wait and those to come.
func (s *Scheduler) Free() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = true
	for _, turn := range s.turns {
		go turn()
	}
	s.turns = nil
}
