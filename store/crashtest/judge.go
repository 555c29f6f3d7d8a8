package crashtest

import (
	"bytes"
	"fmt"

	"github.com/perdure/perdure/store"
)

// A history is everything that the processes of one log have written to their journals. It
// checks the contents of the log against these rules:
//
//  1. An acknowledged command is stored: every part of each batch, once, with the bytes,
//     the version, the position and the sequence of the acknowledgement.
//  2. A refused command, or one whose error says that it is not stored, is not stored.
//  3. A command in flight, or one whose error leaves the outcome open, is stored or not,
//     but each batch as a whole. So is the group, unless one of its batches may have
//     conflicted.
//  4. Nothing else is stored.
//  5. The commands of one client are in the order in which they were committed.
//  6. A command that was once read as stored, or as not stored, stays so.
//
// [readImage] reports contradictions within the log: gaps, wrong heads and duplicates.
type history struct {
	entries []*entry
	byName  map[name]int // index in entries, by the name of a part
	flying  map[[2]int]*entry
	// deaf means that outcomes do not count any more: they may have been written after the
	// power was cut.
	deaf bool
}

// An entry is one command with its outcome, as far as it is known.
type entry struct {
	*command
	out    *outcome // nil while it is in flight
	judged bool
	stored []bool // whether each part is stored; valid if judged
}

func newHistory() *history {
	return &history{byName: map[name]int{}, flying: map[[2]int]*entry{}}
}

// add adds a line of a journal.
func (h *history) add(l *line) error {
	switch {
	case l.Begin != nil:
		c := l.Begin
		if h.flying[[2]int{c.Life, c.Client}] != nil {
			return fmt.Errorf("client %d.%d begins command %d before the one before it has ended", c.Life, c.Client, c.Number)
		}
		e := &entry{command: c, stored: make([]bool, len(c.Parts))}
		h.flying[[2]int{c.Life, c.Client}] = e
		for i := range c.Parts {
			h.byName[c.name(i)] = len(h.entries)
		}
		h.entries = append(h.entries, e)
	case l.End != nil:
		o := l.End
		e := h.flying[[2]int{o.Life, o.Client}]
		if e == nil || e.Number != o.Number || (o.Error == "" && len(o.Results) != len(e.Parts)) {
			return fmt.Errorf("client %d.%d ends command %d, which it has not begun so", o.Life, o.Client, o.Number)
		}
		if !h.deaf {
			e.out = o
		}
		delete(h.flying, [2]int{o.Life, o.Client})
	case l.Saw != nil:
		for _, e := range h.entries {
			if e.Life == l.Saw.Life && e.Client == l.Saw.Client && e.Number == l.Saw.Number {
				e.settle(l.Saw.Stored)
			}
		}
	}
	return nil
}

// settle records that a command was read as stored or not stored.
func (e *entry) settle(stored bool) {
	e.judged = true
	for i := range e.stored {
		e.stored[i] = stored
	}
}

// acknowledged returns the number of acknowledged commands.
func (h *history) acknowledged() int {
	n := 0
	for _, e := range h.entries {
		if e.out != nil && e.out.Error == "" {
			n++
		}
	}
	return n
}

// crashed records that a process has ended: its commands in flight get no outcome any more.
func (h *history) crashed() {
	clear(h.flying)
	h.deaf = false
}

// keys returns the entities of all commands.
func (h *history) keys() []store.Key {
	seen := map[store.Key]bool{}
	var keys []store.Key
	for _, e := range h.entries {
		for _, p := range e.Parts {
			if !p.Key.IsZero() && !seen[p.Key] {
				seen[p.Key] = true
				keys = append(keys, p.Key)
			}
		}
	}
	return keys
}

// A judge compares a history with an image.
type judge struct {
	h *history
	m *image
	faults
	stored map[name]bool // by the name of the part
	gone   map[name]bool // messages that were settled and claims that were released
}

// judge returns the faults that it finds in an image. It adds to the history what the image
// says about commands whose outcome was open.
func (h *history) judge(m *image) []string {
	j := &judge{h: h, m: m, stored: map[name]bool{}, gone: map[name]bool{}}
	for _, e := range h.entries {
		for i := range e.Parts {
			n := e.name(i)
			if j.stored[n] = j.isStored(e, i); !j.stored[n] {
				continue
			}
			for _, s := range e.Parts[i].Settle {
				j.gone[s.Message] = true
			}
			for _, value := range e.Parts[i].Release {
				j.gone[value] = true
			}
		}
	}
	// The checks that explain other faults come first.
	j.checkStrangers()
	j.checkOrder()
	for _, e := range h.entries {
		j.checkOutcome(e)
		for i := range e.Parts {
			j.checkPart(e, i)
		}
	}
	j.checkStates()
	j.checkCheckpoints()
	for _, e := range h.entries {
		e.judged = true
		for i := range e.Parts {
			e.stored[i] = j.stored[e.name(i)]
		}
	}
	if j.more > 0 {
		j.all = append(j.all, fmt.Sprintf("and %d more", j.more))
	}
	return j.all
}

// isStored looks for the record of the batch that no later command can remove: an event,
// else a receipt.
func (j *judge) isStored(e *entry, i int) bool {
	p, n := &e.Parts[i], e.name(i)
	switch {
	case len(p.Sizes) > 0:
		return j.m.events[n.of("event", 0)] != nil
	case p.Receipt:
		return j.m.receipts[n] != nil
	case e.judged: // the log was read right after this command
		return e.stored[i]
	case p.Save:
		return j.m.versions[p.Key] > p.Expected
	default:
		return j.m.checkpoints[checkpointName(e.Life, e.Client)].Sequence() >= uint64(e.Number)
	}
}

// checkPart checks that a batch is stored completely or not at all.
func (j *judge) checkPart(e *entry, i int) {
	p, n := &e.Parts[i], e.name(i)
	stored := j.stored[n]
	what := fmt.Sprintf("batch %s of %v", n, p.Key)
	there := func(part string, found bool) bool {
		if found != stored {
			j.addf("%s: half of it: stored is %t, %s is %s", what, stored, part, map[bool]string{true: "there", false: "missing"}[found])
		}
		return found && stored
	}
	b := e.batch(i)
	var last store.Position
	for k := range b.Events {
		got := j.m.events[n.of("event", k)]
		if !there(fmt.Sprintf("event %d", k), got != nil) {
			continue
		}
		if k > 0 && got.Position != last+1 {
			j.addf("%s: event %d is at position %v, the one before it at %v", what, k, got.Position, last)
		}
		last = got.Position
		want := &b.Events[k]
		if got.Key != p.Key || got.Version != p.Expected+store.Version(k)+1 || got.Remaining != uint32(len(b.Events)-1-k) || got.ID != want.ID || got.Type != want.Type ||
			got.Metadata.CorrelationID != want.Metadata.CorrelationID || len(got.Tags) != 1 || got.Tags[0] != want.Tags[0] ||
			!bytes.Equal(got.Payload, want.Payload) {
			j.addf("%s: event %d is not what was committed: version %d of %v with %d bytes", what, k, got.Version, got.Key, len(got.Payload))
		}
	}
	if p.Receipt {
		got := j.m.receipts[n]
		if there("receipt", got != nil) && (got.Entity != p.Key || got.Version != p.next() || got.Position != last ||
			got.CommandID != n.id() || !bytes.Equal(got.Reply, b.Receipts[0].Reply)) {
			j.addf("%s: the receipt is of %v, version %d, position %v; the batch ended at version %d, position %v",
				what, got.Entity, got.Version, got.Position, p.next(), last)
		}
	}
	for k := range b.Enqueue {
		m := n.of("message", k)
		got := j.m.messages[m]
		if j.gone[m] {
			if got != nil {
				j.addf("%s: message %d is there, though it was settled", what, k)
			}
			continue
		}
		if there(fmt.Sprintf("message %d", k), got != nil) && (got.Source != p.Key || got.ID != m.id() || !bytes.Equal(got.Payload, b.Enqueue[k].Payload)) {
			j.addf("%s: message %d is not what was enqueued: of %v", what, k, got.Source)
		}
	}
	if p.Claim {
		owner, held := j.m.claims[n]
		switch {
		case j.gone[n] && held:
			j.addf("%s: the claim is held, though it was released", what)
		case j.gone[n]:
		case there("claim", held) && owner != p.Key:
			j.addf("%s: the claim is held by %v", what, owner)
		}
	}
	if p.Checkpoint && stored && j.m.checkpoints[checkpointName(e.Life, e.Client)].Sequence() < uint64(e.Number) {
		j.addf("%s: half of it: stored is true, the checkpoint is missing", what)
	}
	if p.Save && stored && j.m.versions[p.Key] < p.next() {
		j.addf("%s: half of it: stored is true, the entity is at version %d, not %d", what, j.m.versions[p.Key], p.next())
	}
	if e.judged && e.stored[i] != stored {
		j.addf("%s: it was read as stored %t, now stored is %t", what, e.stored[i], stored)
	}
	if e.out != nil && e.out.Error == "" && stored && e.out.Results[i].Refused == "" {
		r := &e.out.Results[i]
		if last != 0 && r.Position != last {
			j.addf("%s: acknowledged at position %v, stored at %v", what, r.Position, last)
		}
		if m := n.of("message", p.Messages-1); p.Messages > 0 && j.m.messages[m] != nil && j.m.messages[m].Sequence != r.Sequence {
			j.addf("%s: acknowledged with sequence %d, stored with %d", what, r.Sequence, j.m.messages[m].Sequence)
		}
	}
}

// checkOutcome compares the answer to a command with the log.
func (j *judge) checkOutcome(e *entry) {
	stored, shared := 0, false
	for i := range e.Parts {
		if j.stored[e.name(i)] {
			stored++
		}
		shared = shared || e.Parts[i].Shared
	}
	what := fmt.Sprintf("command %d of client %d.%d", e.Number, e.Life, e.Client)
	switch {
	case e.out != nil && e.out.Error == "":
		for i, r := range e.out.Results {
			switch is := j.stored[e.name(i)]; {
			case r.Refused == "" && !is:
				j.addf("%s: batch %d was acknowledged and is lost", what, i)
			case r.Refused != "" && is:
				j.addf("%s: batch %d was refused (%s) and is stored", what, i, r.Refused)
			case r.Refused != "" && !e.Parts[i].Shared:
				j.addf("%s: batch %d was refused, though no other client commits to %v: %s", what, i, e.Parts[i].Key, r.Refused)
			}
		}
	case e.out != nil && e.out.NotStored && stored > 0:
		j.addf("%s: the error says %q and %d batches are stored", what, e.out.Error, stored)
	case stored > 0 && stored < len(e.Parts) && !shared:
		j.addf("%s: %d of the %d batches of its group are stored", what, stored, len(e.Parts))
	}
}

// checkStates checks that the latest state of each entity is the last one stored.
func (j *judge) checkStates() {
	latest := map[store.Key]name{}
	versions := map[store.Key]store.Version{}
	for _, e := range j.h.entries {
		for i := range e.Parts {
			p, n := &e.Parts[i], e.name(i)
			if (p.Save || p.Snapshot) && j.stored[n] && p.next() >= versions[p.Key] {
				latest[p.Key], versions[p.Key] = n, p.next()
			}
		}
	}
	for _, key := range j.h.keys() {
		n, got := latest[key], j.m.states[key]
		switch {
		case n == "" && got == nil:
		case n == "":
			j.addf("%v: state %s of version %d is offered, none was stored", key, nameOf(got.Payload), got.Version)
		case got == nil:
			j.addf("%v: state of version %d, by %s, is missing", key, versions[key], n)
		case got.Version != versions[key] || !bytes.Equal(got.Payload, n.of("state", 0).payload(64)) || got.Key != key:
			j.addf("%v: state %s of version %d is offered, the latest is %s of version %d", key, nameOf(got.Payload), got.Version, n, versions[key])
		}
	}
}

// checkCheckpoints checks that each checkpoint is at its last position.
func (j *judge) checkCheckpoints() {
	want := map[string]store.Position{}
	for _, e := range j.h.entries {
		for i := range e.Parts {
			if e.Parts[i].Checkpoint && j.stored[e.name(i)] {
				want[checkpointName(e.Life, e.Client)] = store.NewPosition(0, uint64(e.Number))
			}
		}
	}
	for b, at := range j.m.checkpoints {
		if want[b] != at {
			j.addf("checkpoint %q is at %v, last moved to %v", b, at, want[b])
		}
	}
}

// checkStrangers looks for records that belong to no command.
func (j *judge) checkStrangers() {
	check := func(what string, n name) {
		if _, ok := j.h.byName[n.owner()]; !ok {
			j.addf("%s %q is of no command", what, n)
		}
	}
	for n := range j.m.events {
		check("event", n)
	}
	for n := range j.m.receipts {
		check("receipt", n)
	}
	for n := range j.m.messages {
		check("message", n)
	}
	for n := range j.m.claims {
		check("claim", n)
	}
}

// checkOrder checks that each partition has the commands of each client in order.
func (j *judge) checkOrder() {
	type lane struct{ partition, life, client int }
	last := map[lane]int{}
	for _, ev := range j.m.positions {
		at, ok := j.h.byName[nameOf(ev.Payload).owner()]
		if !ok {
			continue // checkStrangers reports it
		}
		e := j.h.entries[at]
		l := lane{ev.Position.Partition(), e.Life, e.Client}
		if e.Number < last[l] {
			j.addf("client %d.%d: command %d lies at position %v, behind command %d", e.Life, e.Client, e.Number, ev.Position, last[l])
		}
		last[l] = e.Number
	}
}
