package stream

import "github.com/perdure/perdure/store"

// Reach tells the hub that the event at a position is durable, and wakes waiting
// readers. It is for events that are not published: for example, a commit whose outcome
// was unknown may have stored events. Reach does not wait.
func (h *Hub) Reach(position store.Position) {
	if position != 0 && h.active.Load() > 0 && h.parts[position.Partition()].raise(position) {
		h.bell.ring()
	}
}
