package sim_test

import (
	"fmt"

	"github.com/perdure/perdure/store"
)

// sufferMax bounds the steps in which a world with an illness must get all other work done.
const sufferMax = 6000

// An illness is one permanent fault that remains after all others have been cured: an entity
// that cannot be loaded, an entity whose load hangs, or a handler of effects that does not
// return. It may delay only work that depends on it.
type illness struct {
	dead   store.Key // the entity that cannot be loaded
	frozen bool      // the load of that entity hangs
	stuck  bool      // handlers of effects hang
	hung   []func()  // the hanging operations
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

// touches reports whether a row may wait because of the illness: the row depends on it, or is
// behind such a row.
func (i *illness) touches(m *store.Message) bool {
	if i.stuck {
		return m.Target.IsZero()
	}
	return m.Target == i.dead
}

// falls makes one part ill.
func (w *world) falls() {
	w.ill = &illness{stuck: w.chance(0.4)}
	if !w.ill.stuck {
		w.ill.dead, w.ill.frozen = w.keys[w.random.IntN(len(w.keys))], w.chance(0.5)
		for _, n := range w.nodes { // out of memory, if possible
			if c := n.activations[w.ill.dead]; c != nil && c.core.Idle() && !c.loading {
				delete(n.activations, w.ill.dead)
			}
		}
	}
	w.note("one thing is broken: %v", w.ill)
}

// suffer runs a world in which only the illness still fails, and checks that all work that does
// not depend on the illness gets done. It then cures the illness.
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

// waitsFor returns the remaining work that does not depend on the illness and waits neither for
// its time, nor for a sweep, nor for an operator.
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
