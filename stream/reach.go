package stream

import "github.com/perdure/perdure/store"

// Reach tells the hub that an event at a position is durable, where that has come
// to light in another way than by its commit: a commit whose outcome was not known
// may have stored events that nobody publishes. Readers that wait go on. It does
// not wait itself.
func (h *Hub) Reach(position store.Position) {
	if position != 0 && h.active.Load() > 0 && h.parts[position.Partition()].raise(position) {
		h.bell.ring()
	}
}
