package outbox

import (
	"time"

	"github.com/perdure/perdure/store"
)

// A laneKey names messages that are delivered in order: those from one source
// to one target, or to one handler.
type laneKey struct {
	source, target store.Key
	handler        string
	volatile       bool
}

// A lane is a queue of rows of which only the first is delivered.
type lane struct {
	key         laneKey
	first, last *Row
	length      int
	behind      bool // the store holds rows that come after the last
	delayed     bool // the first row waits until then for another attempt
	until       time.Time
}

// A fifo is a queue of rows that are ready.
type fifo struct {
	rows []*Row
	head int
}

func (f *fifo) push(r *Row) { f.rows = append(f.rows, r) }

func (f *fifo) pop() *Row {
	if f.head == len(f.rows) {
		return nil
	}
	r := f.rows[f.head]
	f.rows[f.head] = nil
	if f.head++; f.head == len(f.rows) {
		f.rows, f.head = f.rows[:0], 0
	}
	return r
}

// A laneHeap orders delayed lanes by when they go on.
type laneHeap []*lane

func (h *laneHeap) Len() int           { return len(*h) }
func (h *laneHeap) Less(i, j int) bool { return (*h)[i].until.Before((*h)[j].until) }
func (h *laneHeap) Swap(i, j int)      { (*h)[i], (*h)[j] = (*h)[j], (*h)[i] }

// Push is part of [heap.Interface].
func (h *laneHeap) Push(x any) {
	*h = append(*h, x.(*lane))
}

// Pop is part of [heap.Interface].
func (h *laneHeap) Pop() any {
	old := *h
	l := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return l
}
