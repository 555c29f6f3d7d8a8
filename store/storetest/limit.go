package storetest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/perdure/perdure/store"
)

// limitCases test the bounds and rules of a batch, just within and just beyond them.
var limitCases = slices.Concat(invalidCases, []testCase{
	{name: "the longest names are kept", run: func(x *fixture) {
		key := store.Key{Kind: strings.Repeat("k", store.KindBytesMax), ID: strings.Repeat("ü", store.IDBytesMax/2)}
		e := x.event("one", strings.Repeat("t", store.TagBytesMax))
		e.Type = strings.Repeat("y", store.TypeBytesMax)
		x.commit(&store.Batch{Key: key, Events: []store.Event{e}})
		got := x.read(key, 0)
		x.wantTexts("read", got, "one")
		want(x, "key", got[0].Key, key)
		want(x, "type", got[0].Type, e.Type)
		want(x, "tags", got[0].Tags, e.Tags)
	}},
	{name: "the largest payload is kept", run: func(x *fixture) {
		e := x.event("")
		e.Payload = bytes.Repeat([]byte("perdure "), store.PayloadBytesMax/8)
		x.commit(&store.Batch{Key: book("a"), Events: []store.Event{e}})
		if got := x.read(book("a"), 0); len(got) != 1 || !bytes.Equal(got[0].Payload, e.Payload) {
			x.Errorf("read: got %d events, want one with the payload of %d bytes that was written", len(got), len(e.Payload))
		}
	}},
	{name: "the largest metadata and the most tags are kept", run: func(x *fixture) {
		e := x.event("one", numbered("tag %d", store.TagsMax)...)
		e.Metadata.Values = map[string]string{"v": strings.Repeat("v", store.MetadataBytesMax-1)}
		x.commit(&store.Batch{Key: book("a"), Events: []store.Event{e}})
		got := x.read(book("a"), 0)[0]
		want(x, "tags", got.Tags, e.Tags)
		want(x, "length of the value", len(got.Metadata.Values["v"]), store.MetadataBytesMax-1)
	}},
	{name: "the largest batch is stored", run: func(x *fixture) {
		texts := numbered("%d", store.BatchRecordsMax)
		r := x.append(book("a"), 0, texts...)
		want(x, "position", r.Position, store.BatchRecordsMax)
		x.wantTexts("read", x.read(book("a"), 0), texts...)
	}},
})

var invalidCases = func() []testCase {
	event := func(change func(*store.Event)) func(*fixture, *store.Batch) {
		return func(_ *fixture, b *store.Batch) { change(&b.Events[0]) }
	}
	id := func(id string) func(*fixture, *store.Batch) {
		return func(_ *fixture, b *store.Batch) { b.Key.ID = id }
	}
	message := func(change func(*store.Message)) func(*fixture, *store.Batch) {
		return func(x *fixture, b *store.Batch) {
			m := x.message("m")
			change(&m)
			b.Enqueue = []store.Message{m}
		}
	}
	invalid, large := store.ErrInvalid, store.ErrTooLarge
	return []testCase{
		refused("an entity id that is empty", invalid, id("")),
		refused("an entity id with a zero byte", invalid, id("a\x00b")),
		refused("an entity id that is not UTF-8", invalid, id("a\xffb")),
		refused("an entity id that is too long", invalid, id(strings.Repeat("i", store.IDBytesMax+1))),
		refused("a kind that is empty", invalid, func(_ *fixture, b *store.Batch) { b.Key.Kind = "" }),
		refused("a kind that is too long", invalid, func(_ *fixture, b *store.Batch) {
			b.Key.Kind = strings.Repeat("k", store.KindBytesMax+1)
		}),
		refused("events without a key", invalid, func(_ *fixture, b *store.Batch) { b.Key = store.Key{} }),
		refused("a version without a key", invalid, func(_ *fixture, b *store.Batch) { *b = store.Batch{Expected: 1} }),
		refused("an event without an id", invalid, event(func(e *store.Event) { e.ID = store.ID{} })),
		refused("an event without a type", invalid, event(func(e *store.Event) { e.Type = "" })),
		refused("an event whose type is too long", invalid, event(func(e *store.Event) {
			e.Type = strings.Repeat("t", store.TypeBytesMax+1)
		})),
		refused("an event whose payload is too large", large, event(func(e *store.Event) {
			e.Payload = make([]byte, store.PayloadBytesMax+1)
		})),
		refused("an event with too many tags", large, event(func(e *store.Event) {
			e.Tags = numbered("%d", store.TagsMax+1)
		})),
		refused("an event with an empty tag", invalid, event(func(e *store.Event) { e.Tags = []string{""} })),
		refused("an event whose tag is too long", invalid, event(func(e *store.Event) {
			e.Tags = []string{strings.Repeat("t", store.TagBytesMax+1)}
		})),
		refused("an event whose metadata is too large", large, event(func(e *store.Event) {
			half := strings.Repeat("v", store.MetadataBytesMax/2)
			e.Metadata.Values = map[string]string{"a": half, "b": half}
		})),
		refused("metadata that is not UTF-8", invalid, event(func(e *store.Event) {
			e.Metadata.Values = map[string]string{"a": "\xff"}
		})),
		refused("an invalid event behind a valid one", invalid, func(x *fixture, b *store.Batch) {
			b.Events = append(b.Events, x.event("two", ""))
		}),
		refused("events beside a state to save", invalid, func(x *fixture, b *store.Batch) { b.Save = x.state("s") }),
		refused("a snapshot beside a state to save", invalid, func(x *fixture, b *store.Batch) {
			b.Events, b.Save, b.Snapshot = nil, x.state("s"), x.state("s")
		}),
		refused("a snapshot of version 0", invalid, func(x *fixture, b *store.Batch) {
			b.Events, b.Snapshot = nil, x.state("s")
		}),
		refused("a state without a type", invalid, func(x *fixture, b *store.Batch) {
			b.Snapshot = &store.State{ID: x.id()}
		}),
		refused("too many records", large, func(x *fixture, b *store.Batch) {
			b.Events = x.events(numbered("%d", store.BatchRecordsMax+1)...)
		}),
		refused("too many bytes", large, func(x *fixture, b *store.Batch) {
			payload := make([]byte, store.PayloadBytesMax)
			for range store.BatchBytesMax / store.PayloadBytesMax {
				e := x.event("")
				e.Payload = payload
				b.Events = append(b.Events, e)
			}
		}),
		refused("a message without an id", invalid, message(func(m *store.Message) { m.ID = store.ID{} })),
		refused("a message without a type", invalid, message(func(m *store.Message) { m.Type = "" })),
		refused("a message to an invalid target", invalid, message(func(m *store.Message) { m.Target.Kind = "k" })),
		refused("a timer whose name has a zero byte", invalid, message(func(m *store.Message) { m.Timer = "\x00" })),
		refused("a due time that no record can hold", invalid, message(func(m *store.Message) {
			m.Due = time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC)
		})),
		refused("a cancelled timer without a name", invalid, func(_ *fixture, b *store.Batch) {
			b.Cancel = []string{""}
		}),
		refused("a settlement without a sequence", invalid, func(_ *fixture, b *store.Batch) {
			b.Settle = []store.Settlement{{}}
		}),
		refused("a receipt without a name", invalid, func(_ *fixture, b *store.Batch) {
			b.Receipts = []store.Receipt{{}}
		}),
		refused("a receipt whose reply is too large", large, func(_ *fixture, b *store.Batch) {
			b.Receipts = []store.Receipt{{Name: "r", Reply: make([]byte, store.PayloadBytesMax+1)}}
		}),
		refused("a forgotten receipt without a name", invalid, func(_ *fixture, b *store.Batch) {
			b.Forget = []string{""}
		}),
		refused("a claim without a space", invalid, func(_ *fixture, b *store.Batch) {
			b.Claim = []store.Claim{{Value: "v"}}
		}),
		refused("a claim whose value is too long", invalid, func(_ *fixture, b *store.Batch) {
			b.Claim = []store.Claim{{Space: "s", Value: strings.Repeat("v", store.NameBytesMax+1)}}
		}),
		refused("a released claim without a value", invalid, func(_ *fixture, b *store.Batch) {
			b.Release = []store.Claim{{Space: "s"}}
		}),
		refused("a checkpoint without a name", invalid, func(_ *fixture, b *store.Batch) {
			b.Checkpoints = []store.Checkpoint{{Position: 1}}
		}),
	}
}()

// refused returns the case that a log refuses a batch that breaks a rule, stores nothing of
// it, and accepts the other batches of the group.
func refused(what string, target error, spoil func(*fixture, *store.Batch)) testCase {
	return testCase{name: "refused is " + what, run: func(x *fixture) {
		bad := &store.Batch{Key: book("bad"), Events: x.events("no")}
		spoil(x, bad)
		results := x.group(
			&store.Batch{Key: book("before"), Events: x.events("before")},
			bad,
			&store.Batch{Key: book("after"), Events: x.events("after")},
		)
		for i, r := range results {
			if i == 1 {
				x.wantError(fmt.Sprintf("batch %d", i), r.Err, target)
			} else {
				want(x, fmt.Sprintf("error of batch %d", i), r.Err, nil)
			}
		}
		x.wantTexts("scan", x.scan(store.Query{}), "before", "after")
		x.wantVersion(book("bad"), 0)
	}}
}
