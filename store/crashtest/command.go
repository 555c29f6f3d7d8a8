package crashtest

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/perdure/perdure/store"
)

// Kinds, claim space and sizes of the workload.
const (
	kindEvents = "ledger" // event-sourced entities
	kindSaved  = "gauge"  // durable-state entities
	claimSpace = "seat"

	eventsMax       = 4
	groupMax        = 4
	payloadBytesMax = 2 << 10
	// One payload in largeOdds has largeBytes, so that it does not fit in a page of a usual
	// size. It is not larger, because for a damaged block Pebble searches for the one bit
	// that may have flipped, and that takes time in the square of the block's size.
	largeOdds  = 64
	largeBytes = 12 << 10
)

// A command is one client's call of Commit: a group of batches.
type command struct {
	// Life is the number of the process that works on the log, Client is the number of the
	// client within it, Number counts the client's commands from 1.
	Life, Client, Number int
	Parts                []part
}

// A part describes one batch of a command, without the fields that are the same in all
// batches.
type part struct {
	Key      store.Key
	Expected store.Version
	// Sizes are the payload sizes of the events, in bytes.
	Sizes      []int   `json:",omitempty"`
	Save       bool    `json:",omitempty"`
	Snapshot   bool    `json:",omitempty"`
	Receipt    bool    `json:",omitempty"`
	Messages   int     `json:",omitempty"`
	Timer      bool    `json:",omitempty"` // the last message is a timer
	Claim      bool    `json:",omitempty"`
	Checkpoint bool    `json:",omitempty"`
	Settle     []taken `json:",omitempty"`
	Release    []name  `json:",omitempty"`
	Shared     bool    `json:",omitempty"` // other clients commit to the entity too, so it may conflict
}

// A taken message is an earlier message that a part settles.
type taken struct {
	Sequence uint64
	Message  name
}

// A name identifies a batch or a record of the workload. It is life.client.number.part for
// a batch, such as "0.3.12.1", followed by the sort and the index for a record, such as
// "0.3.12.1.event0".
type name string

func (c *command) name(part int) name {
	return name(fmt.Sprintf("%d.%d.%d.%d", c.Life, c.Client, c.Number, part))
}

func (n name) of(sort string, i int) name { return name(fmt.Sprintf("%s.%s%d", n, sort, i)) }

// id returns the id of the record, which is derived from its name.
func (n name) id() store.ID {
	sum := sha256.Sum256([]byte(n))
	return store.ID(sum[:16])
}

// payload returns at least size bytes that begin with the name and differ from the payload
// of every other name. A name longer than size makes it longer.
func (n name) payload(size int) []byte {
	sum := sha256.Sum256([]byte(n))
	b := append([]byte(n), ' ')
	random := rand.NewChaCha8(sum)
	if from := len(b); size > from {
		b = append(b, make([]byte, size-from)...)
		_, _ = random.Read(b[from:]) // ChaCha8.Read never fails
	}
	return b
}

// nameOf returns the name at the beginning of a payload.
func nameOf(payload []byte) name {
	n, _, _ := strings.Cut(string(payload[:min(len(payload), 100)]), " ")
	return name(n)
}

// owner returns the name of the batch that contains the record n.
func (n name) owner() name {
	fields := strings.SplitN(string(n), ".", 5)
	return name(strings.Join(fields[:min(4, len(fields))], "."))
}

func checkpointName(life, client int) string { return fmt.Sprintf("reader %d.%d", life, client) }

// far is the due time of timers: none becomes due within a test.
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
	if p.Checkpoint {
		b.Checkpoints = []store.Checkpoint{{Name: checkpointName(c.Life, c.Client), Position: store.NewPosition(0, uint64(c.Number))}}
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

// An outcome is what one call of Commit returned.
type outcome struct {
	Life, Client, Number int
	// Error is the error of the whole call, empty if there was none.
	Error     string `json:",omitempty"`
	NotStored bool   `json:",omitempty"` // the error says that nothing was stored
	Broken    bool   `json:",omitempty"`
	Results   []result
}

// A result is the outcome of one batch.
type result struct {
	Refused  string `json:",omitempty"`
	Position store.Position
	Sequence uint64
}
