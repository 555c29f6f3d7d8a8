package wheel

import (
	"math"
	"math/bits"
)

const (
	digitBits = 6
	slotsLen  = 1 << digitBits // of one level
	// levelsMax levels tell 2^48 ticks apart, which at [Resolution] is more than
	// a [time.Duration] can say.
	levelsMax = 8
	// cascadeMax is how many timers one step moves down.
	cascadeMax = 256
)

// A tick is a moment, in steps of [Resolution] since the wheel was made.
type tick uint64

const never tick = math.MaxUint64

// A place is the number of a slot, counted through all levels from 1.
type place uint16

const nowhere place = 0

func placeOf(level int, slot uint64) place { return place(level*slotsLen) + place(slot) + 1 }

func (p place) level() int { return int(p-1) / slotsLen }

func (p place) bit() uint64 { return 1 << (uint64(p-1) % slotsLen) }

// Slots is the core of a wheel: which timer is next, and nothing else. It is a
// hierarchical timing wheel, scheme 7 of G. Varghese and T. Lauck, "Hashed and
// hierarchical timing wheels", SOSP 1987, with digits of six bits and, per
// level, a word that tells which slots hold something. A moment is a number of
// levelsMax digits. It holds to these rules:
//
//  1. No timer that is held is before now. A timer lies on the level of the
//     highest digit in which its moment differs from now (level 0 if in none), in
//     the slot of that digit. So timers of one moment share a slot.
//  2. A slot is a ring in the order of arrival, and its bit in full is set if and
//     only if the ring holds something.
//  3. By 1, every timer of a level is before all those of the levels above, and
//     the first slot of the lowest level that holds something has the next one.
//     On level 0 a slot is a single moment.
//  4. While a slot cascades, now is the tick before the slot begins. By 1, what
//     is added then comes to lie behind the rest of that slot or above its level;
//     levels below hold only what has come out of it, filed as from its beginning.
//
// A step takes the next slot, if it has been reached. On level 0 it yields the
// first timer. Above, now moves to the beginning of the slot, and its timers
// are filed again, each on a lower level: that is the cascade. A timer goes
// down at most once a level, in the order of its ring, so timers of one moment
// come out in the order in which they went in.
//
// The reasons: a cascade stops after cascadeMax timers and is taken up by the
// next step, because the caller holds a lock and a slot may hold a million. A
// heap was rejected because it pays for order among timers that are stopped
// before it matters; a single ring of slots, because it looks at every timer
// once in each round. Waking at the moment of the next timer instead of at the
// next slot would save a few wake-ups of a timer that is far away, and cost a
// search.
type slots struct {
	now       tick
	cascading place
	n         int
	full      [levelsMax]uint64
	first     [levelsMax*slotsLen + 1]*Timer
}

// skip brings slots that hold nothing to a moment, which saves the cascades of
// the time in which there was nothing to do.
func (s *slots) skip(to tick) {
	if s.n == 0 {
		s.now, s.cascading = max(s.now, to), nowhere
	}
}

// add files a timer that is nowhere. One whose moment has passed is due at once.
func (s *slots) add(t *Timer, at tick) {
	earliest := s.now
	if s.cascading != nowhere {
		earliest++
	}
	t.at = max(at, earliest)
	s.n++
	s.file(t, s.now)
}

// remove takes a timer out. It reports whether the timer was held.
func (s *slots) remove(t *Timer) bool {
	if t.place == nowhere {
		return false
	}
	s.unlink(t)
	s.n--
	return true
}

// next returns the first slot that holds something and when it begins, or never.
func (s *slots) next() (at tick, p place) {
	if s.cascading != nowhere && !broken("interruption") {
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

// step moves towards a moment. If more is false, nothing is due until then;
// otherwise due, if it is not nil, was the next timer, and is taken out.
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

// cascade files timers of a slot again, as from its beginning.
func (s *slots) cascade(at tick, p place) {
	s.now, s.cascading = at-1, p
	for range cascadeMax {
		t := s.first[p]
		if t == nil {
			break
		}
		s.unlink(t)
		if broken("cascade") {
			continue
		}
		s.file(t, at)
	}
	if s.first[p] == nil {
		s.now, s.cascading = at, nowhere
	}
}

// file links a timer into the slot that is its own as seen from a moment.
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
	if broken("order") {
		s.first[p] = t
	}
}

// unlink takes a timer out of its slot.
func (s *slots) unlink(t *Timer) {
	p := t.place
	t.place = nowhere
	switch {
	case t.next == t:
		s.first[p] = nil
		if !broken("bit") {
			s.full[p.level()] &^= p.bit()
		}
	case s.first[p] == t:
		s.first[p] = t.next
		fallthrough
	default:
		t.prev.next, t.next.prev = t.next, t.prev
	}
	t.next, t.prev = nil, nil
}

// clear takes every timer out.
func (s *slots) clear() {
	for p := range s.first {
		for t := s.first[p]; t != nil; t = s.first[p] {
			s.remove(t)
		}
	}
}
