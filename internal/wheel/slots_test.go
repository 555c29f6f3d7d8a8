package wheel

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
)

// A model is the obvious form of slots: a list sorted by tick and then by arrival.
type model struct {
	slots   slots
	sorted  []*Timer
	reached tick
}

func (m *model) add(t *testing.T, x *Timer, at tick) {
	t.Helper()
	m.slots.skip(m.reached)
	m.slots.add(x, at)
	if x.at < at || at >= m.reached && x.at != at {
		t.Fatalf("add at %d, reached %d: filed at %d", at, m.reached, x.at)
	}
	i, _ := slices.BinarySearchFunc(m.sorted, x.at+1, func(x *Timer, at tick) int {
		if x.at < at {
			return -1
		}
		return 1
	})
	m.sorted = slices.Insert(m.sorted, i, x)
}

func (m *model) remove(t *testing.T, x *Timer) {
	t.Helper()
	i := slices.Index(m.sorted, x)
	if got, want := m.slots.remove(x), i >= 0; got != want {
		t.Fatalf("remove of a timer at %d: %t, want %t", x.at, got, want)
	}
	if i >= 0 {
		m.sorted = slices.Delete(m.sorted, i, i+1)
	}
}

// step makes one step and reports whether more timers are due.
func (m *model) step(t *testing.T, to tick) bool {
	t.Helper()
	m.reached = max(m.reached, to)
	due, more := m.slots.step(m.reached)
	waits := len(m.sorted) > 0 && m.sorted[0].at <= m.reached
	switch {
	case due == nil && !more && waits:
		t.Fatalf("step to %d ends although a timer at %d waits", m.reached, m.sorted[0].at)
	case due != nil && !waits:
		t.Fatalf("step to %d yields a timer at %d, which is early or was not there", m.reached, due.at)
	case due != nil && due != m.sorted[0]:
		t.Fatalf("step to %d yields a timer at %d out of order, want the one at %d", m.reached, due.at, m.sorted[0].at)
	case due != nil:
		m.sorted = m.sorted[1:]
	}
	return more
}

// drain steps until no more timer is due.
func (m *model) drain(t *testing.T, to tick) {
	t.Helper()
	left := 2 * levelsMax * (len(m.sorted) + 1) // each timer moves down levelsMax times at most
	for m.step(t, to) {
		if left--; left < 0 {
			t.Fatalf("the way to %d does not end", to)
		}
	}
}

// check checks the invariants of slots.
func (m *model) check(t *testing.T) {
	t.Helper()
	s := &m.slots
	if s.n != len(m.sorted) {
		t.Fatalf("%d timers are held, want %d", s.n, len(m.sorted))
	}
	from := s.now
	if s.cascading != nowhere {
		from++
	}
	found := 0
	for p := place(1); int(p) < len(s.first); p++ {
		if set := s.full[p.level()]&p.bit() != 0; set != (s.first[p] != nil) {
			t.Fatalf("the bit of place %d is %t, and the slot says otherwise", p, set)
		}
		for x := s.first[p]; x != nil; {
			found++
			seen := from
			if p == s.cascading {
				seen = s.now
			}
			level := (bits.Len64(uint64(x.at^seen)|(slotsLen-1)) - 1) / digitBits
			if want := placeOf(level, uint64(x.at)>>(level*digitBits)%slotsLen); x.at < seen || p != want || x.place != p {
				t.Fatalf("a timer at %d lies in place %d and says %d, want %d as seen from %d", x.at, p, x.place, want, seen)
			}
			if x.next.prev != x || x.prev.next != x {
				t.Fatalf("the ring of place %d is broken", p)
			}
			if x = x.next; x == s.first[p] {
				break
			}
		}
	}
	if found != s.n {
		t.Fatalf("%d timers lie in slots, want %d", found, s.n)
	}
}

func TestSlotsAgreeWithASortedList(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 1))
			timers := make([]Timer, 1+r.IntN(2*cascadeMax))
			var m model
			const end = 1 << 46
			reach := 1 + r.IntN(44) // largest distance of ticks, in bits
			for range 1500 {
				x := &timers[r.IntN(len(timers))]
				far := min(tick(r.Uint64()>>(64-r.IntN(reach+1))), end-m.reached)
				switch r.IntN(8) {
				case 0:
					m.remove(t, x)
				case 1, 2, 3:
					m.remove(t, x)
					m.add(t, x, m.reached+far)
				case 4: // many timers in one slot, so that its cascade is interrupted
					for i := range timers[:r.IntN(len(timers))] {
						m.remove(t, &timers[i])
						m.add(t, &timers[i], m.reached+far+tick(r.IntN(slotsLen)))
					}
				case 5:
					m.remove(t, x)
					m.add(t, x, m.reached-min(far, m.reached)) // its tick has passed
				case 6:
					m.step(t, m.reached+far)
				case 7:
					m.drain(t, m.reached+far)
				}
				m.check(t)
			}
			m.drain(t, 2*end)
			m.check(t)
			if m.slots.n != 0 {
				t.Fatalf("%d timers are left at the end", m.slots.n)
			}
		})
	}
}

func TestTimerMovesDownOnceALevelAtMost(t *testing.T) {
	t.Parallel()
	var s slots
	var x Timer
	s.add(&x, 1<<45-1)
	steps := 0
	for more := true; more && steps < 100; steps++ {
		var due *Timer
		if due, more = s.step(1 << 46); due != nil {
			break
		}
	}
	if x.place != nowhere || steps >= levelsMax {
		t.Errorf("a timer 2^45 ticks away: due after %d steps (held: %t), want at most %d", steps, x.place != nowhere, levelsMax)
	}
}

func TestStepMovesABoundedNumberOfTimers(t *testing.T) {
	t.Parallel()
	const n = 3*cascadeMax + 1
	var s slots
	timers := make([]Timer, n)
	for i := range timers {
		s.add(&timers[i], slotsLen+tick(i%slotsLen))
	}
	for i := 1; s.first[placeOf(1, 1)] != nil; i++ {
		moved := 0
		before := make([]place, n)
		for j := range timers {
			before[j] = timers[j].place
		}
		if due, more := s.step(1 << 20); due != nil || !more {
			t.Fatalf("step %d: due %v, more %t; want the cascade to go on", i, due, more)
		}
		for j := range timers {
			if timers[j].place != before[j] {
				moved++
			}
		}
		if moved > cascadeMax {
			t.Fatalf("step %d moved %d timers, want at most %d", i, moved, cascadeMax)
		}
	}
}
