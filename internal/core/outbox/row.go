package outbox

import (
	"time"

	"github.com/perdure/perdure/store"
)

// A Row is a message that is to be delivered. A volatile row has sequence 0: it is an effect
// that is tried once and is not in the store.
type Row struct {
	// Message is nil while only the place of the row is in memory.
	Message *store.Message
	// Value is the decoded message of a volatile row.
	Value any

	class      *class
	flow       *flow
	next       *Row // next row of the flow
	sequence   uint64
	due        time.Time
	knownSince time.Time     // time since which the row is known, unchanged by another engine
	began      time.Time     // start of the delivery in progress
	firstTried time.Time     // first failed try since the row could last be tried; zero if none
	owner      uint64        // owner of the row in the store, as far as is known
	ownedAt    time.Time     // latest time at which the store was known to have the row as this engine's
	attempts   uint32        // attempts in the store, as far as is known
	postponed  uint32        // number of deliveries that could not be tried
	sweep      uint32        // the last sweep that read the row
	pause      time.Duration // pause that another engine may make before its next attempt
	sort       sort

	halting    bool // the row is the first of its flow and will be halted when that is durable
	settled    bool // the row is handled or parked, and waits until that is durable
	changed    bool // the row has a settlement that is not at the store yet
	storing    bool // the row has a settlement at the store
	saving     bool // the store could not store its last failed attempt
	claim      bool // the row must be claimed, by a settlement, before its delivery
	again      bool // the row was parked or halted, and a commit has made it pending again since then
	delivering bool // the row is being delivered
	stalled    bool // the delivery has taken so long that it does not count any more
	awaitsRead bool // the row waits to be read again, or is being read
	queued     bool // the row is in the list of rows to read
	reading    bool // the shell is reading the row
	refetch    bool // the result of that read may be out of date
	stale      bool // the row in the store may differ from this one; it must be read before it is used
}

// A sort says which engine may deliver a row.
type sort uint8

// Place returns the row's place in the order of pending messages.
func (r *Row) Place() (due time.Time, sequence uint64) { return r.due, r.sequence }

// load sets the payload of a row.
func (q *Queue) load(r *Row, m *store.Message) {
	r.Message, r.ownedAt, r.stale = m, q.now, false
	q.loaded++
	r.class.rows++
	r.class.bytes += len(m.Payload)
	r.flow.rows++
	if t := r.flow.target; t != nil {
		t.rows++
	}
}

// unload drops the payload of a row that is in a flow, and keeps its place.
func (q *Queue) unload(r *Row) {
	q.countUnloaded(r)
	q.release(r)
	q.takePlace(r)
}

// countUnloaded removes a row with a payload from the count of its flow.
func (q *Queue) countUnloaded(r *Row) {
	f := r.flow
	f.rows--
	q.feed(&f.quota)
	if t := f.target; t != nil {
		t.rows--
		q.feed(&t.quota)
	}
}

// release removes a payload from the count of its class.
func (q *Queue) release(r *Row) {
	q.loaded--
	r.class.rows--
	r.class.bytes -= len(r.Message.Payload)
	r.Message = nil
	q.feedClass(r.class)
}

// takePlace counts a row that has no payload now. givePlace counts a row that has its payload
// again or is gone. Rows that this engine cannot deliver are counted separately, so they use no
// room of the others.
func (q *Queue) takePlace(r *Row) { q.countPlace(r, 1) }

func (q *Queue) givePlace(r *Row) { q.countPlace(r, -1) }

func (q *Queue) countPlace(r *Row, n int) {
	switch r.sort {
	case sortMisfit:
		if r.class.misfits += n; n < 0 && r.class.misfits == q.placesFree() {
			q.feedUnplaced(r.class)
		}
		return
	case sortHalted:
		return // Limits.HaltedMax bounds them
	default:
	}
	r.class.places += n
	if t := r.flow.target; t != nil && r.sort == sortOwn {
		if t.places += n; n < 0 {
			q.feed(&t.quota)
		}
	}
}

// setSort changes the sort of a row without a payload.
func (q *Queue) setSort(r *Row, s sort) {
	q.givePlace(r)
	r.sort = s
	q.takePlace(r)
}

const (
	// own: this engine delivers it.
	sortOwn sort = iota
	// open: no engine has claimed the row.
	sortOpen
	// foreign: another engine delivers it.
	sortForeign
	// misfit: this engine cannot deliver the row.
	sortMisfit
	// halted: the row holds up its flow until an operator decides.
	sortHalted
)
