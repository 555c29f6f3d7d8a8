package storetest

import (
	"errors"
	"fmt"
	"slices"

	"github.com/perdure/perdure/store"
)

// flips are ways to damage the stored form of a record.
var flips = []struct {
	name string
	flip func(sealed []byte)
}{
	{"its first byte", func(b []byte) { b[0] ^= 1 }},
	{"a byte in the middle", func(b []byte) { b[len(b)/2] ^= 0x10 }},
	{"its last byte before the checksum", func(b []byte) { b[len(b)-5] ^= 0x80 }},
	{"its checksum", func(b []byte) { b[len(b)-1] ^= 4 }},
	{"all of it", func(b []byte) { clear(b) }},
}

// corruptCases damage one record of each sort and read it by every method that returns it.
var corruptCases = slices.Concat(
	damaged("event", func(x *fixture) any {
		x.append(book("a"), 0, "1", "2", "3")
		return x.read(book("a"), 0)[1]
	}, map[string]func(*fixture) error{
		"read": func(x *fixture) error { return corruptAfter(x, "read", x.log.Read(x.ctx, book("a"), 0), "1") },
		"load": func(x *fixture) error { return corruptAfter(x, "load", x.log.Load(x.ctx, book("a"), always), "1") },
		"scan": func(x *fixture) error { return corruptAfter(x, "scan", x.log.Scan(x.ctx, store.Query{}), "1") },
		"scan by kind": func(x *fixture) error {
			return corruptAfter(x, "scan", x.log.Scan(x.ctx, store.Query{Kinds: []string{"book"}}), "1")
		},
	}),
	damaged("state", func(x *fixture) any {
		x.commit(&store.Batch{Key: book("a"), Events: x.events("1"), Snapshot: x.state("s")})
		return x.latest(book("a"))
	}, map[string]func(*fixture) error{
		"load": func(x *fixture) error {
			accept := func(s *store.State) bool {
				x.Errorf("load offers the damaged state %+v", s)
				return true
			}
			return corruptAfter(x, "load", x.log.Load(x.ctx, book("a"), accept))
		},
	}),
	damaged("message", func(x *fixture) any {
		x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("m")}})
		return x.messages(store.MessageQuery{})[0]
	}, map[string]func(*fixture) error{
		"outbox": func(x *fixture) error {
			return first(x, "outbox", x.log.Messages(x.ctx, store.MessageQuery{}))
		},
	}),
	damaged("receipt", func(x *fixture) any {
		x.commit(&store.Batch{Key: book("a"), Receipts: []store.Receipt{{Name: "r"}}})
		return x.receipt(book("a"), "r")
	}, map[string]func(*fixture) error{
		"receipt": func(x *fixture) error {
			_, err := x.log.Receipt(x.ctx, book("a"), "r")
			return err
		},
		"receipts": func(x *fixture) error {
			return first(x, "receipts", x.log.Receipts(x.ctx, book("a")))
		},
	}),
	damaged("claim", func(x *fixture) any {
		x.commit(&store.Batch{Key: book("a"), Claim: []store.Claim{ada}})
		return &x.claims("address")[0]
	}, map[string]func(*fixture) error{
		"owner": func(x *fixture) error {
			_, err := x.log.Owner(x.ctx, ada)
			return err
		},
		"claims": func(x *fixture) error {
			return first(x, "claims", x.log.Claims(x.ctx, "address"))
		},
	}),
	damaged("checkpoint", func(x *fixture) any {
		x.mark(store.Checkpoint{Name: "b", Position: 5})
		return &x.checkpoints()[0]
	}, map[string]func(*fixture) error{
		"checkpoints": func(x *fixture) error {
			_, err := x.log.Checkpoints(x.ctx)
			return err
		},
	}),
	[]testCase{
		{name: "a damaged event spoils no other entity", needs: []need{damage}, run: func(x *fixture) {
			x.append(book("a"), 0, "1", "2")
			x.append(book("b"), 0, "3", "4")
			x.damage(x.read(book("a"), 0)[0], flips[1].flip)
			x.wantTexts("read of the other", x.read(book("b"), 0), "3", "4")
			x.wantTexts("read behind it", x.read(book("a"), 1), "2")
			x.wantTexts("scan behind it", x.scan(store.Query{After: 1}), "2", "3", "4")
			x.append(book("b"), 2, "5")
		}},
		{name: "a damaged message does not bury those behind it", needs: []need{damage}, run: func(x *fixture) {
			x.commit(&store.Batch{Key: book("a"), Enqueue: []store.Message{x.message("1"), x.message("2"), x.message("3")}})
			x.damage(x.messages(store.MessageQuery{})[1], flips[1].flip)
			var got []string
			for m, err := range x.log.Messages(x.ctx, store.MessageQuery{}) {
				if err != nil {
					x.wantError("the damaged message", err, store.ErrCorrupt)
					got = append(got, "damaged")
					continue
				}
				got = append(got, string(m.Payload))
			}
			want(x, "messages", got, []string{"1", "damaged", "3"})
		}},
		{name: "a snapshot spares a damaged event below it", needs: []need{damage}, run: func(x *fixture) {
			threeSnapshots(x)
			x.damage(x.read(book("a"), 0)[2], flips[1].flip)
			_, events := x.load(book("a"), always)
			x.wantTexts("load", events, "7")
		}},
		{name: "an error about a damaged event says where it is", needs: []need{damage}, run: func(x *fixture) {
			x.append(book("a"), 0, "1", "2")
			x.damage(x.read(book("a"), 0)[1], flips[1].flip)
			var c *store.CorruptError
			if err := corruptAfter(x, "read", x.log.Read(x.ctx, book("a"), 0), "1"); errors.As(err, &c) {
				want(x, "what", c.What, "event")
				if c.Key != book("a") && c.Position != 2 {
					x.Errorf("read: got %+v, want the key or the position of the event", c)
				}
			}
			if err := corruptAfter(x, "scan", x.log.Scan(x.ctx, store.Query{}), "1"); errors.As(err, &c) {
				want(x, "position", c.Position, 2)
			}
		}},
	},
)

// damaged returns one case for each flip: every function in reads must notice the damage.
// Put stores the record and returns it.
func damaged(what string, put func(*fixture) any, reads map[string]func(*fixture) error) []testCase {
	cases := make([]testCase, 0, len(flips))
	for _, f := range flips {
		cases = append(cases, testCase{
			name:  fmt.Sprintf("a damaged %s is noticed by %s", what, f.name),
			needs: []need{damage},
			run: func(x *fixture) {
				record := put(x)
				x.damage(record, f.flip)
				for how, read := range reads {
					err := read(x)
					x.wantError(how, err, store.ErrCorrupt)
					if _, ok := errors.AsType[*store.CorruptError](err); !ok {
						x.Errorf("%s: got a %T, want a *store.CorruptError", how, err)
					}
				}
			},
		})
	}
	return cases
}

// corruptAfter reads a sequence that must yield events with the given texts and then an
// error, and returns the error.
func corruptAfter(x *fixture, what string, seq func(func(*store.Event, error) bool), texts ...string) error {
	x.Helper()
	var last error
	var got []*store.Event
	for e, err := range seq {
		if last != nil {
			x.Errorf("%s: goes on after the error %v", what, last)
			break
		}
		if last = err; err == nil {
			got = append(got, kept(e))
		}
	}
	x.wantTexts(what+" before the damaged record", got, texts...)
	return last
}
