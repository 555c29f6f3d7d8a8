package proof_test

import (
	"fmt"
	"strconv"
	"sync"
)

// A what is what a call asks for.
type what string

const (
	whatDeposit  what = "deposit"
	whatWithdraw what = "withdraw"
	whatTouch    what = "touch"
	whatQuery    what = "query"
	whatState    what = "state"
)

// An ending says what a client knows of its call afterwards.
type ending string

const (
	pending     ending = ""             // the call has not returned
	endDone     ending = "done"         // it was answered
	endRefused  ending = "refused"      // its rule has refused
	endVersion  ending = "version"      // the entity was not at the version that it wanted
	endNothing  ending = "nothing"      // it has failed, and nothing of it is stored
	endUnknown  ending = "unknown"      // whether anything of it is stored is not known
	endConflict ending = "key conflict" // its key is another command's
)

// An op is one call of one client. Begin and End are moments of one counter,
// taken before the call and after it: if one op has ended before another has
// begun, its End is below the other's Begin.
type op struct {
	Client int    `json:"client"`
	Entity int    `json:"entity"`
	What   what   `json:"what"`
	Number int64  `json:"number,omitempty"` // of the command; the same for all calls with one key
	Parts  int    `json:"parts,omitempty"`
	Key    string `json:"key,omitempty"` // idempotency key

	Conditional bool   `json:"conditional,omitempty"`
	IfVersion   uint64 `json:"if_version,omitempty"`

	Begin int64 `json:"begin"`
	End   int64 `json:"end,omitempty"`

	Ending  ending `json:"ending,omitempty"`
	Version uint64 `json:"version,omitempty"` // that the answer tells
	Digest  int64  `json:"digest,omitempty"`  // of the state that it shows, if Shows
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

// A recorder keeps what clients do. Both methods stamp the op with a moment.
type recorder interface {
	begin(o *op)
	end(o *op)
}

// A history is what happened to all entities of a run: a recorder in memory. It
// is bounded by the ops that a run makes.
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

// of returns the ops of one entity, in the order in which they began. A call that
// has not returned has no known outcome.
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
