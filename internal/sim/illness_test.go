package sim_test

import (
	"fmt"

	"github.com/perdure/perdure/store"
)

// sufferMax bounds the steps in which a world with an illness must get all else done.
const sufferMax = 6000

// An illness is one thing that stays broken after everything else has been mended: an
// entity that cannot be loaded, or whose load hangs, or a handler of effects that does
// not return. It may hold up what has to do with it, and nothing else.
type illness struct {
	dead   store.Key // cannot be loaded
	frozen bool      // because its load hangs
	stuck  bool      // handlers of effects hang
	hung   []func()  // what hangs
}

func (i *illness) String() string {
	if i.stuck {
		return "handlers of effects hang"
	}
	return fmt.Sprintf("%v cannot be loaded, hangs: %t", i.dead, i.frozen)
}

// deadens reports whether an entity cannot be loaded.
func (i *illness) deadens(key store.Key) bool { return i != nil && i.dead == key }

// freezes reports whether the load of an entity does not return.
func (i *illness) freezes(key store.Key) bool { return i.deadens(key) && i.frozen }

// hangs reports whether the handler of a message does not return.
func (i *illness) hangs(m *store.Message) bool { return i != nil && i.stuck && m.Sequence != 0 }

// touches reports whether a row may wait because of the illness: it has to do with it,
// or it stands behind such a row.
func (i *illness) touches(m *store.Message) bool {
	if i.stuck {
		return m.Target.IsZero()
	}
	return m.Target == i.dead
}

// falls makes one thing ill.
func (w *world) falls() {
	w.ill = &illness{stuck: w.chance(0.4)}
	if !w.ill.stuck {
		w.ill.dead, w.ill.frozen = w.keys[w.random.IntN(len(w.keys))], w.chance(0.5)
		for _, n := range w.nodes { // out of memory, where it can be
			if c := n.cells[w.ill.dead]; c != nil && c.core.Idle() && !c.loading {
				delete(n.cells, w.ill.dead)
			}
		}
	}
	w.note("one thing is broken: %v", w.ill)
}

// suffer lets a world in which nothing fails any more but one thing go on, and checks
// that everything that has nothing to do with that gets done. Then it is mended.
func (w *world) suffer() {
	if w.fault != "" || w.ill == nil {
		return
	}
	began := w.steps
	for waits := w.waitsFor(); waits != ""; waits = w.waitsFor() {
		switch more := w.step(); {
		case w.fault != "":
			return
		case !more || w.steps-began > sufferMax:
			w.broken("%s, though nothing is broken but that %v", waits, w.ill)
			return
		}
	}
	w.note("it is mended")
	hung := w.ill.hung
	w.ill = nil
	for _, work := range hung {
		w.later(work, "what hung goes on")
	}
}

// waitsFor says what has yet to be done that has nothing to do with the illness and
// waits neither for its time, nor for a sweep, nor for an operator.
func (w *world) waitsFor() string {
	for _, c := range w.clients {
		if c.op != nil && !w.ill.deadens(c.op.key) {
			return fmt.Sprintf("%v is not answered", c.op)
		}
	}
	rescued := w.disk.outbox.rescued()
	for _, l := range w.disk.outbox.order {
		if l.closed == 0 && !l.parked && !l.message.Due.After(w.now()) && !w.ill.touches(&l.message) && !rescued[l] && !w.disk.outbox.behindHalted(l) {
			return fmt.Sprintf("%v is not done", l)
		}
	}
	return ""
}
