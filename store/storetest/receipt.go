package storetest

import (
	"fmt"

	"github.com/perdure/perdure/store"
)

var receiptCases = []testCase{
	{name: "a receipt is read back as it was written", run: func(x *fixture) {
		full := fullReceipt(x)
		r := x.commit(&store.Batch{Key: book("a"), Events: x.events("one", "two"), Receipts: []store.Receipt{full}})
		full.Entity, full.Position, full.Time = book("a"), r.Position, r.Time.UTC()
		want(x, "receipt", x.receipt(book("a"), full.Name), &full)
		want(x, "receipts", x.receipts(book("a")), []*store.Receipt{&full})
		head := store.Receipt{
			Entity: full.Entity, Name: full.Name, CommandID: full.CommandID, Fingerprint: full.Fingerprint,
			Version: full.Version, Order: full.Order, Time: full.Time,
		}
		for got, err := range x.log.ReceiptHeads(x.ctx, book("a")) {
			x.wantNoError("head of the receipt", err)
			got.Position, got.Refusal, got.ReplyType, got.Reply = 0, nil, "", nil
			want(x, "head of the receipt", got, &head)
		}
	}},
	{name: "a receipt with a reply and no refusal is kept", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Receipts: []store.Receipt{{Name: "r", CommandID: x.id(), ReplyType: "t.Reply", Reply: []byte("reply")}}})
		r := x.receipt(book("a"), "r")
		want(x, "refusal", r.Refusal, nil)
		want(x, "reply", string(r.Reply), "reply")
	}},
	{name: "a receipt that is not there is not found", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Receipts: []store.Receipt{{Name: "r"}}})
		for _, q := range []struct {
			key  store.Key
			name string
		}{{book("a"), "rr"}, {book("b"), "r"}, {store.Key{Kind: "shelf", ID: "a"}, "r"}} {
			_, err := x.log.Receipt(x.ctx, q.key, q.name)
			x.wantError(fmt.Sprintf("receipt %+v", q), err, store.ErrNotFound)
		}
		want(x, "number of receipts of another", len(x.receipts(book("b"))), 0)
	}},
	{name: "a receipt whose name is there refuses the batch", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Receipts: []store.Receipt{{Name: "r", ReplyType: "old"}}})
		r := x.try(&store.Batch{Key: book("a"), Events: x.events("no"), Receipts: []store.Receipt{{Name: "s"}, {Name: "r", ReplyType: "new"}}})
		x.wantError("a second receipt of the name", r.Err, store.ErrAnswered)
		want(x, "reply type", x.receipt(book("a"), "r").ReplyType, "old")
		want(x, "number of receipts", len(x.receipts(book("a"))), 1)
		x.wantVersion(book("a"), 0)
		x.commit(&store.Batch{Key: book("b"), Receipts: []store.Receipt{{Name: "r"}}}) // the name is free for another entity
	}},
	{name: "a receipt is there for later batches of the group", run: func(x *fixture) {
		r := x.group(
			&store.Batch{Key: book("a"), Receipts: []store.Receipt{{Name: "r", ReplyType: "first"}}},
			&store.Batch{Key: book("a"), Receipts: []store.Receipt{{Name: "r", ReplyType: "second"}}},
		)
		x.wantNoError("first", r[0].Err)
		x.wantError("second", r[1].Err, store.ErrAnswered)
		want(x, "reply type", x.receipt(book("a"), "r").ReplyType, "first")
	}},
	{name: "two receipts of one name in a batch are invalid", run: func(x *fixture) {
		r := x.try(&store.Batch{Key: book("a"), Receipts: []store.Receipt{{Name: "r"}, {Name: "r"}}})
		x.wantError("the batch", r.Err, store.ErrInvalid)
	}},
	{name: "a forgotten receipt is gone", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Receipts: []store.Receipt{{Name: "r"}, {Name: "s"}}})
		x.commit(&store.Batch{Key: book("b"), Receipts: []store.Receipt{{Name: "r"}}})
		x.commit(&store.Batch{Key: book("a"), Forget: []string{"r", "unknown"}})
		want(x, "receipts", x.receiptNames(book("a")), []string{"s"})
		want(x, "receipts of another", x.receiptNames(book("b")), []string{"r"})
	}},
	{name: "a receipt can be forgotten and added in one batch", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Receipts: []store.Receipt{{Name: "r", ReplyType: "old"}}})
		x.commit(&store.Batch{Key: book("a"), Forget: []string{"r"}, Receipts: []store.Receipt{{Name: "r", ReplyType: "new"}}})
		want(x, "reply type", x.receipt(book("a"), "r").ReplyType, "new")
	}},
	{name: "receipts are sorted by name in byte order", run: func(x *fixture) {
		for i := range oddIDs {
			name := oddIDs[(i*17)%len(oddIDs)] // not in the order of their names
			x.commit(&store.Batch{Key: book("a"), Receipts: []store.Receipt{{Name: name}}})
		}
		want(x, "receipts", x.receiptNames(book("a")), oddIDs)
	}},
	{name: "many receipts of one entity are kept", run: func(x *fixture) {
		wanted := numbered("%05d", 1000)
		for i, name := range wanted {
			b := &store.Batch{Key: book("a"), Receipts: []store.Receipt{{Name: name}}}
			if i >= 10 && i%2 == 0 {
				b.Forget = []string{wanted[i-1]}
			}
			x.commit(b)
		}
		kept := []string{}
		for i, name := range wanted {
			if i < 9 || i%2 == 0 || i == len(wanted)-1 {
				kept = append(kept, name)
			}
		}
		want(x, "receipts", x.receiptNames(book("a")), kept)
	}},
	{name: "a receipt without events keeps the position that it has", run: func(x *fixture) {
		x.append(book("a"), 0, "one")
		x.commit(&store.Batch{Key: book("a"), Expected: 1, Receipts: []store.Receipt{{Name: "none"}, {Name: "given", Position: 1}}})
		want(x, "position", x.receipt(book("a"), "none").Position, 0)
		want(x, "given position", x.receipt(book("a"), "given").Position, 1)
	}},
	{name: "a receipt with a position keeps it beside events", run: func(x *fixture) {
		x.append(book("a"), 0, "one")
		x.commit(&store.Batch{Key: book("a"), Expected: 1, Events: x.events("two"), Receipts: []store.Receipt{{Name: "given", Position: 1}}})
		want(x, "given position", x.receipt(book("a"), "given").Position, 1)
	}},
	{name: "a receipt makes no version", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Receipts: []store.Receipt{{Name: "r"}}})
		x.wantVersion(book("a"), 0)
	}},
	{name: "receipts of a refused batch are neither stored nor forgotten", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Receipts: []store.Receipt{{Name: "r"}}})
		x.try(&store.Batch{Key: book("a"), Expected: 1, Forget: []string{"r"}, Receipts: []store.Receipt{{Name: "no"}}})
		want(x, "receipts", x.receiptNames(book("a")), []string{"r"})
	}},
	{name: "reading receipts can end early", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Receipts: []store.Receipt{{Name: "r"}, {Name: "s"}}})
		for _, err := range x.log.Receipts(x.ctx, book("a")) {
			x.wantNoError("receipts", err)
			break
		}
		x.append(book("a"), 0, "one") // an iteration that was broken off holds no lock
	}},
}

func (x *fixture) receipt(key store.Key, name string) *store.Receipt {
	x.Helper()
	r, err := x.log.Receipt(x.ctx, key, name)
	if err != nil {
		x.Fatalf("receipt %q of %v: %v", name, key, err)
	}
	return r
}

func (x *fixture) receiptNames(key store.Key) []string {
	x.Helper()
	names := []string{}
	for _, r := range x.receipts(key) {
		names = append(names, r.Name)
	}
	return names
}

// fullReceipt returns a receipt with all fields set, except those that the store sets.
func fullReceipt(x *fixture) store.Receipt {
	return store.Receipt{
		Name: "key/1", CommandID: x.id(), Fingerprint: []byte{9, 0, 0xff}, Version: 2,
		Refusal: &store.Refusal{Code: 9, Message: "book is lent", Details: []store.Detail{
			{Type: "test.v1.Loan", Payload: []byte{1}}, {Type: "test.v1.Loan", Payload: []byte{2}},
		}},
		ReplyType: "test.v1.Book", Reply: []byte("reply"), Order: 300,
	}
}
