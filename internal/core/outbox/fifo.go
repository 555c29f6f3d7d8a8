package outbox

// A fifo is a queue of rows.
type fifo struct {
	rows []*Row
	head int
}

func (f *fifo) push(r *Row) {
	if f.head > len(f.rows)/2 && len(f.rows) == cap(f.rows) {
		n := copy(f.rows, f.rows[f.head:])
		clear(f.rows[n:])
		f.rows, f.head = f.rows[:n], 0
	}
	f.rows = append(f.rows, r)
}

func (f *fifo) peek() *Row {
	if f.head == len(f.rows) {
		return nil
	}
	return f.rows[f.head]
}

// fifoKeep is the maximum capacity that an empty fifo keeps.
const fifoKeep = 1024

// pop removes and returns the first row, if ok is true and there is one.
func (f *fifo) pop(ok bool) *Row {
	if !ok || f.head == len(f.rows) {
		return nil
	}
	r := f.rows[f.head]
	f.rows[f.head] = nil
	if f.head++; f.head == len(f.rows) {
		f.rows, f.head = f.rows[:0], 0
		if cap(f.rows) > fifoKeep {
			f.rows = nil
		}
	}
	return r
}
