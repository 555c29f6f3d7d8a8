package crashtest

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/perdure/perdure/store"
)

// Kinds, spaces and sizes of the workload.
const (
	kindEvents = "ledger" // event-sourced entities
	kindSaved  = "gauge"  // durable-state entities
	claimSpace = "seat"

	eventsMax       = 4
	groupMax        = 4
	payloadBytesMax = 2 << 10
	// One payload of largeOdds is of largeBytes, so that it does not fit in a
	// page of a usual size. It is not larger, because Pebble looks for the one bit
	// that may have flipped in a damaged block in a time of the square of its size.
	largeOdds  = 64
	largeBytes = 12 << 10
)

// A command is what one client commits by one call: a group of batches.
type command struct {
	// Life counts the processes that have worked on the log, Client names one
	// client within it, Number counts its commands from 1.
	Life, Client, Number int
	Parts                []part
}

// A part is one batch of a command, as far as it is not the same for all.
type part struct {
	Key      store.Key
	Expected store.Version
	// Sizes are the bytes of the payloads of the events.
	Sizes    []int   `json:",omitempty"`
	Save     bool    `json:",omitempty"`
	Snapshot bool    `json:",omitempty"`
	Receipt  bool    `json:",omitempty"`
	Messages int     `json:",omitempty"`
	Timer    bool    `json:",omitempty"` // the last message is a timer
	Claim    bool    `json:",omitempty"`
	Bookmark bool    `json:",omitempty"`
	Settle   []taken `json:",omitempty"`
	Release  []name  `json:",omitempty"`
	Shared   bool    `json:",omitempty"` // other clients commit to the entity too, so it may conflict
}

// A taken message is one that a part settles.
type taken struct {
	Sequence uint64
	Message  name
}

// A name identifies what a command has made: life.client.number.part, and for
// records the sort with its number.
type name string

func (c *command) name(part int) name {
	return name(fmt.Sprintf("%d.%d.%d.%d", c.Life, c.Client, c.Number, part))
}

func (n name) of(sort string, i int) name { return name(fmt.Sprintf("%s.%s%d", n, sort, i)) }

// id returns the id of a record.
func (n name) id() store.ID {
	sum := sha256.Sum256([]byte(n))
	return store.ID(sum[:16])
}

// payload returns size bytes, or a few more, that begin with the name and that
// no other name gives.
func (n name) payload(size int) []byte {
	sum := sha256.Sum256([]byte(n))
	b := append([]byte(n), ' ')
	random := rand.NewChaCha8(sum)
	if from := len(b); size > from {
		b = append(b, make([]byte, size-from)...)
		_, _ = random.Read(b[from:]) // it cannot fail
	}
	return b
}

// nameOf returns the name that a payload begins with.
func nameOf(payload []byte) name {
	n, _, _ := strings.Cut(string(payload[:min(len(payload), 100)]), " ")
	return name(n)
}

// owner returns the name of the batch that has made what n names.
func (n name) owner() name {
	fields := strings.SplitN(string(n), ".", 5)
	return name(strings.Join(fields[:min(4, len(fields))], "."))
}

func bookmarkName(life, client int) string { return fmt.Sprintf("reader %d.%d", life, client) }

// far is when timers are due: never within a test.
var far = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

// batches returns the group that the command commits.
func (c *command) batches() []*store.Batch {
	group := make([]*store.Batch, len(c.Parts))
	for i := range c.Parts {
		group[i] = c.batch(i)
	}
	return group
}

func (c *command) batch(i int) *store.Batch {
	p, n := &c.Parts[i], c.name(i)
	b := &store.Batch{Key: p.Key, Expected: p.Expected}
	for j, size := range p.Sizes {
		at := n.of("event", j)
		b.Events = append(b.Events, store.Event{
			ID: at.id(), Type: "crash.v1.Happened", Payload: at.payload(size), Tags: []string{"client " + fmt.Sprint(c.Client)},
			Metadata: store.Metadata{CorrelationID: string(n)},
		})
	}
	state := func() *store.State {
		at := n.of("state", 0)
		return &store.State{ID: at.id(), Type: "crash.v1.State", Payload: at.payload(64), Fingerprint: 7}
	}
	if p.Save {
		b.Save = state()
	}
	if p.Snapshot {
		b.Snapshot = state()
	}
	for j := range p.Messages {
		at := n.of("message", j)
		m := store.Message{ID: at.id(), Type: "crash.v1.Do", Payload: at.payload(40)}
		if p.Timer && j == p.Messages-1 {
			m.Timer, m.Due = string(n), far
		}
		b.Enqueue = append(b.Enqueue, m)
	}
	if p.Receipt {
		b.Receipts = []store.Receipt{{
			Name: string(n), CommandID: n.id(), Fingerprint: []byte(n), Version: b.Next(),
			ReplyType: "crash.v1.Reply", Reply: n.of("reply", 0).payload(32),
		}}
	}
	if p.Claim {
		b.Claim = []store.Claim{{Space: claimSpace, Value: string(n)}}
	}
	for _, value := range p.Release {
		b.Release = append(b.Release, store.Claim{Space: claimSpace, Value: string(value)})
	}
	for _, s := range p.Settle {
		b.Settle = append(b.Settle, store.Settlement{Sequence: s.Sequence, Required: true})
	}
	if p.Bookmark {
		b.Bookmarks = []store.Bookmark{{Name: bookmarkName(c.Life, c.Client), Position: store.NewPosition(0, uint64(c.Number))}}
	}
	return b
}

// next returns the version of the entity after the part.
func (p *part) next() store.Version {
	if p.Save {
		return p.Expected + 1
	}
	return p.Expected + store.Version(len(p.Sizes))
}

// An outcome is what one Commit has returned.
type outcome struct {
	Life, Client, Number int
	// Error is that of Commit as a whole, empty if there was none.
	Error     string `json:",omitempty"`
	NotStored bool   `json:",omitempty"` // it claims that nothing was stored
	Broken    bool   `json:",omitempty"`
	Results   []result
}

// A result is the outcome of one batch.
type result struct {
	Refused  string `json:",omitempty"`
	Position store.Position
	Sequence uint64
}
