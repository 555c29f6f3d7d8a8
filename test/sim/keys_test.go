package sim_test

import (
	"time"

	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/store"
)

// A keyName is an idempotency key of one entity.
type keyName struct {
	key  store.Key
	name string
}

// A promise is the history of an idempotency key: its uses, in the order of their commits.
// There is a further use only if the receipt of the earlier one has been deleted.
type promise struct {
	uses []*use
	sent *op // the first call that was made with the key
}

// A use is a command that was decided under a key.
type use struct {
	command     store.ID
	fingerprint [16]byte
	version     store.Version // version after the command
	position    store.Position
	refusal     *store.Refusal
	time        time.Time
	since       time.Time // start of the call; the decision came later
	sinceStored time.Time // the same by the store's clock
	forgotten   int       // time at which its receipt was deleted; 0 if it exists
}

// promise returns the history of a key.
func (d *disk) promise(key store.Key, name string) *promise {
	p := d.keys[keyName{key, name}]
	if p == nil {
		p = new(promise)
		d.keys[keyName{key, name}] = p
	}
	return p
}

// first reports whether a call is the first one that has used its key.
func (d *disk) first(o *op) bool {
	p := d.promise(o.key, o.call.Name)
	if p.sent == nil {
		p.sent = o
	}
	return p.sent == o
}

// keyed reports whether a command came with a key.
func (d *disk) keyed(command store.ID) bool {
	o := d.w.ops[command]
	return o != nil && o.call.Name != ""
}

// keep records the command that a batch answers, and the receipts that the batch deletes. It
// checks that the batch may do so.
func (d *disk) keep(b *store.Batch, command store.ID, r *store.Result, at int) {
	bk := d.books[b.Key]
	if d.keyed(command) {
		o := d.w.ops[command]
		p := d.promise(b.Key, o.call.Name)
		if n := len(p.uses); n > 0 && p.uses[n-1].forgotten == 0 {
			d.w.broken("%v is decided at version %d, and its key was answered at version %d by %v",
				o, b.Next(), p.uses[n-1].version, d.said(p.uses[n-1].command))
			return
		}
		u := &use{
			command: command, fingerprint: o.call.Fingerprint, version: b.Next(), position: r.Position,
			time: d.w.now(), since: o.since, sinceStored: o.sinceStored,
		}
		if t := d.w.storeClock(); t.Before(u.sinceStored) {
			u.sinceStored = t // the clock was set back
		}
		if len(b.Receipts) > 0 {
			u.refusal = b.Receipts[0].Refusal
		}
		p.uses = append(p.uses, u)
		bk.uses = append(bk.uses, u)
		d.w.note("  %v answers %q", b.Key, o.call.Name)
	}
	for _, name := range b.Forget {
		p := d.promise(b.Key, name)
		if len(p.uses) == 0 || p.uses[len(p.uses)-1].forgotten != 0 {
			continue // another node has deleted the receipt
		}
		u := p.uses[len(p.uses)-1]
		u.forgotten = at
		d.w.note("  %v forgets %q", b.Key, name)
		if d.w.shared && len(p.uses) > 1 {
			continue // the node may mistake it for the older use of that name
		}
		age := max(d.w.now().Sub(u.since), d.w.stored.Sub(u.sinceStored))
		if newer := bk.newer(u); newer < d.w.receiptsMax && age < d.w.receiptsFor {
			d.w.broken("%v forgets the key %q after %d newer ones and %v; it keeps %d for %v",
				b.Key, name, newer, age, d.w.receiptsMax, d.w.receiptsFor)
		}
	}
}

// newer counts the uses of an entity's keys that are not older than u. One commit gives many
// uses the same time, and some the same version; nothing shows which of those is older.
func (b *book) newer(u *use) (n int) {
	for _, v := range b.uses {
		if c := v.time.Compare(u.time); v != u && (c > 0 || c == 0 && v.version >= u.version) {
			n++
		}
	}
	return n
}

// checkKept checks the answer to a command with a key: it must be the answer to the first use
// of the key.
func (o *op) checkKept(out *entity.Outcome) {
	w := o.w
	for _, u := range w.disk.promise(o.key, o.call.Name).uses {
		if u.forgotten != 0 && u.forgotten < o.started || u.fingerprint != o.call.Fingerprint || u.version != out.Version {
			continue
		}
		if (u.refusal != nil) != (out.Status == entity.StatusRefused) ||
			u.refusal != nil && refused(u.refusal).Error() != out.Err.Error() {
			continue
		}
		if !out.Repeated && u.command != o.call.ID {
			continue
		}
		if u.position != 0 && u.position != out.Position {
			w.broken("%v is told position %v again, and was stored at %v", o, out.Position, u.position)
		}
		o.checkState(out)
		return
	}
	w.broken("%v is answered with status %d at version %d, repeated: %t; that was never the answer", o, out.Status, out.Version, out.Repeated)
}

// checkReused checks that another command was answered under the key.
func (o *op) checkReused() {
	for _, u := range o.w.disk.promise(o.key, o.call.Name).uses {
		if u.fingerprint != o.call.Fingerprint {
			return
		}
	}
	o.w.broken("%v is told that its key is another command's, which it is not", o)
}

// A holding is a time during which an entity holds a value.
type holding struct {
	key      store.Key
	from, to int // to is 0 while it lasts
}

// claim records the holders of values after a batch.
func (d *disk) claim(b *store.Batch, at int) {
	for _, c := range b.Release {
		if h := d.holder(c.Value); h != nil && h.key == b.Key {
			h.to = at
		}
	}
	for _, c := range b.Claim {
		h := d.holder(c.Value)
		switch {
		case h == nil:
			d.claims[c.Value] = append(d.claims[c.Value], holding{key: b.Key, from: at})
			d.w.note("  %v holds %q", b.Key, c.Value)
		case h.key != b.Key:
			d.w.broken("%v and %v both hold %q", h.key, b.Key, c.Value)
		}
	}
}

// holder returns the present holding of a value, or nil.
func (d *disk) holder(value string) *holding {
	list := d.claims[value]
	if len(list) == 0 || list[len(list)-1].to != 0 {
		return nil
	}
	return &list[len(list)-1]
}

// checkClaimed checks that another entity held the claimed value at some time between the
// beginning and the end of the call.
func (o *op) checkClaimed() {
	_, values := leaves(o.call.Message)
	for _, v := range values {
		for _, h := range o.w.disk.claims[v] {
			if h.key != o.key && (h.to == 0 || h.to > o.started) {
				return
			}
		}
	}
	o.w.broken("%v is refused for a claim, and nobody else holds %q", o, values)
}

// auditClaims compares the claims in the log with the book.
func (d *disk) auditClaims() {
	held := 0
	for c, err := range d.log.Claims(background, space) {
		if err != nil {
			panic(err)
		}
		held++
		if h := d.holder(c.Claim.Value); h == nil || h.key != c.Owner {
			d.w.broken("%v holds %q in the log, and not in the book", c.Owner, c.Claim.Value)
		}
	}
	for value := range d.claims {
		if d.holder(value) != nil {
			held--
		}
	}
	if held != 0 {
		d.w.broken("the log has %d claims more than the book", held)
	}
}
