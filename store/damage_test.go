package store_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/perdure/perdure/store"
)

// damagedRecords returns one damaged record of each kind.
func damagedRecords() []store.Record {
	key := store.Key{Kind: "book", ID: "a"}
	return []store.Record{
		&store.Event{Key: key, Version: 7, Position: 9, Damage: "lost"},
		&store.State{Key: key, Version: 7, Position: 9, Damage: "lost"},
		&store.Message{Sequence: 3, Source: key, Damage: "lost"},
		&store.Receipt{Entity: key, Name: "r", Damage: "lost"},
		&store.Claimed{Claim: store.Claim{Space: "s", Value: "v"}, Damage: "lost"},
		&store.Checkpoint{Name: "b", Damage: "lost"},
	}
}

func TestDamagedRecord(t *testing.T) {
	t.Parallel()
	decode := func(s store.RecordKind, sealed []byte) (err error) {
		var d store.Decoder
		switch s {
		case store.KindEvent:
			err = d.Event(sealed, new(store.Event))
		case store.KindState:
			err = d.State(sealed, new(store.State))
		case store.KindMessage:
			_, err = store.DecodeMessage(sealed)
		case store.KindReceipt:
			_, err = store.DecodeReceipt(sealed)
		case store.KindClaim:
			_, err = store.DecodeClaimed(sealed)
		case store.KindCheckpoint:
			_, err = store.DecodeCheckpoint(sealed)
		}
		return err
	}
	t.Run("is_an_error_for_each_decoder", func(t *testing.T) {
		t.Parallel()
		for _, r := range damagedRecords() {
			s := store.RecordKindOf(r)
			if err := store.ValidateRecord(r); err != nil {
				t.Errorf("%v: got %v, want that an import takes it", s, err)
			}
			sealed := store.AppendRecord([]byte("before"), r)[len("before"):]
			if !store.IsDamaged(sealed) {
				t.Errorf("%v: its stored form says nothing", s)
			}
			if err := decode(s, sealed); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "copied from: lost") {
				t.Errorf("%v: got %v, want an error that matches %v and says why", s, err, store.ErrCorrupt)
			}
			for i := range sealed { // further damage is an error as well
				spoilt := bytes.Clone(sealed)
				spoilt[i] ^= 1
				if err := decode(s, spoilt); !errors.Is(err, store.ErrCorrupt) || store.IsDamaged(spoilt) {
					t.Errorf("%v with byte %d changed: got %v", s, i, err)
				}
			}
		}
	})
	t.Run("of_an_event_names_it", func(t *testing.T) {
		t.Parallel()
		r := damagedRecords()[0]
		c, ok := errors.AsType[*store.CorruptError](decode(store.KindEvent, store.AppendRecord(nil, r)))
		if !ok || c.Key != (store.Key{Kind: "book", ID: "a"}) || c.Version != 7 || c.Position != 9 {
			t.Errorf("got %+v, want version 7 of book/a at position 9", c)
		}
		if n := store.SizeEvent(r.(*store.Event)); n < len(store.AppendRecord(nil, r)) {
			t.Errorf("size: got %d, and the stored form has %d bytes", n, len(store.AppendRecord(nil, r)))
		}
	})
	t.Run("is_refused_by_a_commit", func(t *testing.T) {
		t.Parallel()
		event := store.Event{ID: store.ID{1}, Type: "test.v1.Happened"}
		message := store.Message{ID: store.ID{2}, Type: "test.v1.Message", Damage: "lost"}
		state := &store.State{ID: store.ID{3}, Type: "test.v1.State", Damage: "lost"}
		damaged := event
		damaged.Damage = "lost"
		for i, b := range []*store.Batch{
			{Events: []store.Event{damaged}},
			{Save: state},
			{Events: []store.Event{event}, Snapshot: state},
			{Enqueue: []store.Message{message}},
			{Settle: []store.Settlement{{Sequence: 1, Message: &message}}},
			{Receipts: []store.Receipt{{Name: "r", Damage: "lost"}}},
			{Checkpoints: []store.Checkpoint{{Name: "b", Damage: "lost"}}},
		} {
			b.Key = store.Key{Kind: "book", ID: "a"}
			if err := b.Validate(); !errors.Is(err, store.ErrInvalid) {
				t.Errorf("batch %d: got %v, want an error that matches %v", i, err, store.ErrInvalid)
			}
		}
	})
}
