package linearize_test

import (
	"fmt"
	"strconv"
	"sync"
)

// A what names the sort of a call: a command or a query.
type what string

const (
	whatDeposit  what = "deposit"
	whatWithdraw what = "withdraw"
	whatTouch    what = "touch"
	whatQuery    what = "query"
	whatState    what = "state"
)

// An ending is the client's knowledge of its call after the call.
type ending string

const (
	pending     ending = ""             // the call has not returned
	endDone     ending = "done"         // the call was answered
	endRefused  ending = "refused"      // the rule has refused
	endVersion  ending = "version"      // the entity was not at the required version
	endNothing  ending = "nothing"      // the call failed, and nothing of it is stored
	endUnknown  ending = "unknown"      // it is unknown whether the command is stored
	endConflict ending = "key conflict" // another command has the same key
)

// An op is one call of one client. Begin and End are values of one counter, taken before
// and after the call: if one op has ended before another has begun, its End is below the
// other's Begin.
type op struct {
	Client int    `json:"client"`
	Entity int    `json:"entity"`
	What   what   `json:"what"`
	Number int64  `json:"number,omitempty"` // number of the command; the same for all calls with one key
	Parts  int    `json:"parts,omitempty"`
	Key    string `json:"key,omitempty"` // idempotency key

	Conditional bool   `json:"conditional,omitempty"`
	IfVersion   uint64 `json:"if_version,omitempty"`

	Begin int64 `json:"begin"`
	End   int64 `json:"end,omitempty"`

	Ending  ending `json:"ending,omitempty"`
	Version uint64 `json:"version,omitempty"` // version in the answer
	Digest  int64  `json:"digest,omitempty"`  // digest of the state in the answer, if Shows is set
	Shows   bool   `json:"shows,omitempty"`
	Error   string `json:"error,omitempty"`
}

func (o *op) String() string {
	s := fmt.Sprintf("client %d: %s", o.Client, o.What)
	if o.Number != 0 {
		s += fmt.Sprintf(" %d", o.Number)
	}
	if o.Key != "" {
		s += " key " + o.Key
	}
	if o.Conditional {
		s += fmt.Sprintf(" if version %d", o.IfVersion)
	}
	s += fmt.Sprintf(" [%d, %d]: %s", o.Begin, o.End, o.Ending)
	if o.Ending == endDone || o.Ending == endRefused || o.Ending == endVersion {
		s += fmt.Sprintf(" at version %d", o.Version)
	}
	if o.Error != "" {
		s += " (" + o.Error + ")"
	}
	return s
}

// writes reports whether the op may change its entity.
func (o *op) writes() bool { return o.What == whatDeposit || o.What == whatWithdraw }

// A recorder records the calls of clients. Both methods stamp the op with the counter.
type recorder interface {
	begin(o *op)
	end(o *op)
}

// A history is the record of all calls of a run, in memory. The number of calls of a run
// bounds it.
type history struct {
	mu  sync.Mutex
	now int64
	ops []*op
}

func (h *history) begin(o *op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now++
	o.Begin = h.now
	h.ops = append(h.ops, o)
}

func (h *history) end(o *op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now++
	o.End = h.now
}

// of returns the ops of one entity, in the order in which they began. A call that has not
// returned has an unknown outcome.
func (h *history) of(entity int) (ops []*op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, o := range h.ops {
		if o.Entity == entity {
			if o.Ending == pending {
				o.Ending = endUnknown
			}
			ops = append(ops, o)
		}
	}
	return ops
}

func numberText(n int64) string { return strconv.FormatInt(n, 10) }
