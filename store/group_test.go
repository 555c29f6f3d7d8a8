package store_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/perdure/perdure/store"
)

func TestBatchBytes(t *testing.T) {
	t.Parallel()
	message, refusal := *fullMessage(), *fullReceipt()
	message.LastError = strings.Repeat("e", 300)
	refusal.Refusal = &store.Refusal{Code: 9, Message: strings.Repeat("m", 200), Details: slices.Repeat([]store.Detail{{Type: "t", Payload: []byte("p")}}, 40)}
	batch := store.Batch{
		Key: validBatch().Key, Events: slices.Repeat(validBatch().Events, 3), Save: fullState(), Snapshot: fullState(),
		Settle: []store.Settlement{{Sequence: 1}, {Sequence: 1, Message: &message}}, Cancel: []string{"t"}, Enqueue: []store.Message{message},
		Forget: []string{"r"}, Receipts: []store.Receipt{*fullReceipt(), refusal},
		Release: []store.Claim{{Space: "s", Value: "v"}}, Claim: []store.Claim{{Space: "s", Value: "v"}},
		Checkpoints: []store.Checkpoint{{Name: "b"}},
	}
	var stored []byte
	for i := range batch.Events {
		stored = store.AppendEvent(stored, &batch.Events[i])
	}
	for _, s := range []*store.State{batch.Save, batch.Snapshot} {
		stored = store.AppendState(stored, s)
	}
	stored = store.AppendMessage(store.AppendMessage(stored, &message), &message)
	for i := range batch.Receipts {
		batch.Receipts[i].Entity = batch.Key
		stored = store.AppendReceipt(stored, &batch.Receipts[i])
	}
	for range 4 { // two claims, two names
		stored = store.AppendClaimed(stored, &store.Claimed{Claim: batch.Claim[0], Owner: batch.Key})
	}
	stored = store.AppendCheckpoint(stored, &batch.Checkpoints[0])
	const records, roundedUp = 15, 300
	if got := batch.Bytes(); got < len(stored) || got > len(stored)+records*roundedUp {
		t.Errorf("bytes of a batch: got %d, want %d as stored and at most %d more", got, len(stored), records*roundedUp)
	}
	plain := validBatch()
	before := plain.Bytes()
	if err := plain.Prepare(); err != nil {
		t.Fatal(err)
	}
	if got := plain.Bytes(); got > before || got < before-100 {
		t.Errorf("bytes of a prepared batch: got %d, want about the %d that it had before", got, before)
	}
}

func TestCheckGroup(t *testing.T) {
	t.Parallel()
	large := validBatch()
	large.Events[0].Payload = make([]byte, store.PayloadBytesMax)
	most := store.GroupBytesMax / store.PayloadBytesMax
	for _, c := range []struct {
		name  string
		group []*store.Batch
		ok    bool
	}{
		{"nothing", nil, true},
		{"a nil batch", []*store.Batch{nil}, true},
		{"as many batches as there may be", make([]*store.Batch, store.GroupBatchesMax), true},
		{"one batch too many", make([]*store.Batch, store.GroupBatchesMax+1), false},
		{"as many bytes as there may be", slices.Repeat([]*store.Batch{large}, most-1), true},
		{"more bytes than there may be", slices.Repeat([]*store.Batch{large}, most), false},
	} {
		n, err := store.CheckGroup(c.group)
		if (err == nil) != c.ok || !c.ok && !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("check of %s: got %v, want refused %t", c.name, err, !c.ok)
		}
		if c.ok && n > store.GroupBytesMax {
			t.Errorf("bytes of %s: got %d, want at most %d", c.name, n, store.GroupBytesMax)
		}
	}
	r := store.Receipt{Name: "r", Refusal: &store.Refusal{Message: strings.Repeat("m", store.PayloadBytesMax+1)}}
	b := store.Batch{Key: validBatch().Key, Receipts: []store.Receipt{r}}
	if err := b.Validate(); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("validate a receipt whose refusal is above a payload: got %v, want %v", err, store.ErrTooLarge)
	}
}
