package wheel

import (
	"math"
	"math/bits"
)

const (
	digitBits = 6
	slotsLen  = 1 << digitBits // slots per level
	// levelsMax levels distinguish 2^48 ticks. At [Resolution] that is longer than the
	// longest [time.Duration].
	levelsMax = 8
	// cascadeMax bounds the timers that one step moves down.
	cascadeMax = 256
)

// A tick is a time, in steps of [Resolution] since the wheel was made.
type tick uint64

const never tick = math.MaxUint64

// A place is the number of a slot. All slots of all levels are numbered from 1.
type place uint16

const nowhere place = 0

func placeOf(level int, slot uint64) place { return place(level*slotsLen) + place(slot) + 1 }

func (p place) level() int { return int(p-1) / slotsLen }

func (p place) bit() uint64 { return 1 << (uint64(p-1) % slotsLen) }

// Slots is the core of a wheel. It finds the next timer, and nothing else. It is a
// hierarchical timing wheel, scheme 7 of G. Varghese and T. Lauck, "Hashed and hierarchical
// timing wheels", SOSP 1987, with digits of six bits, and one word per level whose bits say
// which slots hold timers. A tick is a number of levelsMax digits. Invariants:
//
//  1. No timer that is held is before now. A timer is on the level of the highest digit in
//     which its tick differs from now (level 0 if they are equal), in the slot of that
//     digit. So timers of one tick share a slot.
//  2. A slot is a ring in the order of arrival. Its bit in full is set if and only if the
//     ring holds a timer.
//  3. By 1, every timer of a level is before all timers of the levels above, and the first
//     slot of the lowest level that holds timers has the next one. On level 0 a slot is one
//     tick.
//  4. While a slot cascades, now is the tick before the slot begins. By 1, a timer that is
//     added then comes to lie behind the rest of that slot or above its level; the levels
//     below hold only timers of the slot, filed as seen from its beginning.
//
// A step takes the next slot, if its time has come. On level 0 it yields the first timer.
// Above, now moves to the beginning of the slot, and the slot's timers are filed again,
// each on a lower level: that is the cascade. A timer goes down at most once per level, in
// the order of its ring, so timers of one tick come out in the order in which they went in.
//
// The reasons: a cascade stops after cascadeMax timers and the next step continues it,
// because the caller holds a lock and a slot may hold a million timers. A heap was rejected
// because it pays for the order of timers that are stopped before the order matters. A
// single ring of slots was rejected because it looks at every timer once per round. Waking
// at the tick of the next timer instead of at the next slot would save a few wake-ups for a
// timer that is far away, and cost a search.
type slots struct {
	now       tick
	cascading place
	n         int
	full      [levelsMax]uint64
	first     [levelsMax*slotsLen + 1]*Timer
}

// skip moves empty slots to a tick. That saves the cascades of the time in which there was
// no timer.
func (s *slots) skip(to tick) {
	if s.n == 0 {
		s.now, s.cascading = max(s.now, to), nowhere
	}
}

// add files a timer that is not held. If its tick has passed, it is due at once.
func (s *slots) add(t *Timer, at tick) {
	earliest := s.now
	if s.cascading != nowhere {
		earliest++
	}
	t.at = max(at, earliest)
	s.n++
	s.file(t, s.now)
}

// remove removes a timer. It reports whether the timer was held.
func (s *slots) remove(t *Timer) bool {
	if t.place == nowhere {
		return false
	}
	s.unlink(t)
	s.n--
	return true
}

// next returns the first slot that holds a timer, and the tick at which it begins, or
// never.
func (s *slots) next() (at tick, p place) {
	if s.cascading != nowhere {
		return s.now + 1, s.cascading
	}
	for level, full := range s.full {
		if full == 0 {
			continue
		}
		slot := bits.TrailingZeros64(full)
		shift := level * digitBits
		above := s.now >> (shift + digitBits) << (shift + digitBits)
		return above | tick(slot)<<shift, placeOf(level, uint64(slot))
	}
	return never, nowhere
}

// step moves towards the tick to. If more is false, no timer is due until then. Otherwise
// due, if it is not nil, is the next timer, which step has removed.
func (s *slots) step(to tick) (due *Timer, more bool) {
	at, p := s.next()
	if at > to {
		s.now = max(s.now, to)
		return nil, false
	}
	if p.level() == 0 {
		s.now = at
		due = s.first[p]
		s.remove(due)
		return due, true
	}
	s.cascade(at, p)
	return nil, true
}

// cascade files timers of a slot again, as seen from the beginning of the slot.
func (s *slots) cascade(at tick, p place) {
	s.now, s.cascading = at-1, p
	for range cascadeMax {
		t := s.first[p]
		if t == nil {
			break
		}
		s.unlink(t)
		s.file(t, at)
	}
	if s.first[p] == nil {
		s.now, s.cascading = at, nowhere
	}
}

// file links a timer into its slot as seen from a tick.
func (s *slots) file(t *Timer, from tick) {
	differs := uint64(t.at^from) | (slotsLen - 1)
	level := (bits.Len64(differs) - 1) / digitBits
	p := placeOf(level, uint64(t.at)>>(level*digitBits)%slotsLen)
	t.place = p
	head := s.first[p]
	if head == nil {
		t.next, t.prev = t, t
		s.first[p] = t
		s.full[level] |= p.bit()
		return
	}
	t.next, t.prev = head, head.prev
	t.prev.next, head.prev = t, t
}

// unlink removes a timer from its slot.
func (s *slots) unlink(t *Timer) {
	p := t.place
	t.place = nowhere
	switch {
	case t.next == t:
		s.first[p] = nil
		s.full[p.level()] &^= p.bit()
	case s.first[p] == t:
		s.first[p] = t.next
		fallthrough
	default:
		t.prev.next, t.next.prev = t.next, t.prev
	}
	t.next, t.prev = nil, nil
}

// clear removes every timer.
func (s *slots) clear() {
	for p := range s.first {
		for t := s.first[p]; t != nil; t = s.first[p] {
			s.remove(t)
		}
	}
}
