package store_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/store"
)

func validBatch() *store.Batch {
	return &store.Batch{Key: store.Key{Kind: "book", ID: "a"}, Events: []store.Event{*fullEvent()}}
}

func TestBatchIsValid(t *testing.T) {
	t.Parallel()
	message := *fullMessage()
	for name, b := range map[string]*store.Batch{
		"nothing": {},
		"a check": {Key: validBatch().Key, Expected: 3},
		"events":  validBatch(),
		"settlements and checkpoints without a key": {
			Settle:      []store.Settlement{{Sequence: 1}, {Sequence: 2, Message: &message}},
			Checkpoints: []store.Checkpoint{{Name: "b", Remove: true}, {Name: "b", Position: 1}},
		},
		"a saved state":           {Key: validBatch().Key, Save: fullState()},
		"a snapshot of version 1": {Key: validBatch().Key, Expected: 1, Snapshot: fullState()},
		"all that fits together": {
			Key: validBatch().Key, Expected: 2, Events: validBatch().Events, Snapshot: fullState(),
			Settle: []store.Settlement{{Sequence: 1, Required: true}}, Cancel: []string{"t"}, Enqueue: []store.Message{message},
			Forget: []string{"r"}, Receipts: []store.Receipt{*fullReceipt()},
			Release: []store.Claim{{Space: "s", Value: "v"}}, Claim: []store.Claim{{Space: "s", Value: "v"}},
			Checkpoints: []store.Checkpoint{{Name: "b"}},
		},
	} {
		if err := b.Validate(); err != nil {
			t.Errorf("validate %s: %v", name, err)
		}
	}
}

func TestBatchThatIsInvalidIsRefusedWithItsReason(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("n", store.NameBytesMax+1)
	invalid, large := store.ErrInvalid, store.ErrTooLarge
	for _, c := range []struct {
		text   string // part of the error
		target error
		spoil  func(*store.Batch)
	}{
		{"without a key", invalid, func(b *store.Batch) { b.Key = store.Key{} }},
		{"expects version 1", invalid, func(b *store.Batch) { *b = store.Batch{Expected: 1} }},
		{"kind is empty", invalid, func(b *store.Batch) { b.Key.Kind = "" }},
		{"zero byte", invalid, func(b *store.Batch) { b.Key.ID = "a\x00" }},
		{"not valid UTF-8", invalid, func(b *store.Batch) { b.Key.ID = "\xff" }},
		{"it is of version 3, and the batch ends at version 1", invalid, func(b *store.Batch) { b.Receipts = []store.Receipt{*fullReceipt()} }},
		{"event 1: invalid: id is zero", invalid, func(b *store.Batch) { b.Events = append(b.Events, store.Event{}) }},
		{"type is empty", invalid, func(b *store.Batch) { b.Events[0].Type = "" }},
		{"65 tags", large, func(b *store.Batch) { b.Events[0].Tags = make([]string, store.TagsMax+1) }},
		{"tag is empty", invalid, func(b *store.Batch) { b.Events[0].Tags = []string{""} }},
		{"16777217 bytes", large, func(b *store.Batch) { b.Events[0].Payload = make([]byte, store.PayloadBytesMax+1) }},
		{"metadata of", large, func(b *store.Batch) {
			b.Events[0].Metadata.Values = map[string]string{"a": strings.Repeat("v", store.MetadataBytesMax)}
		}},
		{"metadata key is empty", invalid, func(b *store.Batch) { b.Events[0].Metadata.Values = map[string]string{"": "v"} }},
		{"not valid UTF-8", invalid, func(b *store.Batch) { b.Events[0].Metadata.TraceState = "\xff" }},
		{"both events and a state", invalid, func(b *store.Batch) { b.Save = fullState() }},
		{"both a state to save and a snapshot", invalid, func(b *store.Batch) { b.Events, b.Save, b.Snapshot = nil, fullState(), fullState() }},
		{"snapshot of version 0", invalid, func(b *store.Batch) { b.Events, b.Snapshot = nil, fullState() }},
		{"state: invalid: id is zero", invalid, func(b *store.Batch) { b.Snapshot = &store.State{} }},
		{"10001 records", large, func(b *store.Batch) { b.Cancel = make([]string, store.BatchRecordsMax) }},
		{"83886080 bytes", large, func(b *store.Batch) {
			b.Events[0].Payload = make([]byte, store.PayloadBytesMax)
			b.Events = append(b.Events, b.Events[0], b.Events[0], b.Events[0], b.Events[0])
		}},
		{"sequence is 0", invalid, func(b *store.Batch) { b.Settle = []store.Settlement{{}} }},
		{"settlement 0: invalid: id is zero", invalid, func(b *store.Batch) {
			b.Settle = []store.Settlement{{Sequence: 1, Message: &store.Message{}}}
		}},
		{"timer name is empty", invalid, func(b *store.Batch) { b.Cancel = []string{""} }},
		{"message 0: invalid: timer name", invalid, func(b *store.Batch) {
			b.Enqueue = []store.Message{*fullMessage()}
			b.Enqueue[0].Timer = long
		}},
		{"due time", invalid, func(b *store.Batch) {
			b.Enqueue = []store.Message{*fullMessage()}
			b.Enqueue[0].Due = time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC)
		}},
		{"entity id is empty", invalid, func(b *store.Batch) {
			b.Enqueue = []store.Message{*fullMessage()}
			b.Enqueue[0].ReplyTo = store.Key{Kind: "k"}
		}},
		{"receipt 0: invalid: receipt name", invalid, func(b *store.Batch) { b.Receipts = []store.Receipt{{}} }},
		{"reply of 16777217 bytes", large, func(b *store.Batch) {
			b.Receipts = []store.Receipt{{Name: "r", Reply: make([]byte, store.PayloadBytesMax+1)}}
		}},
		{"receipt name", invalid, func(b *store.Batch) { b.Forget = []string{long} }},
		{"claim space is empty", invalid, func(b *store.Batch) { b.Claim = []store.Claim{{Value: "v"}} }},
		{"claim value is empty", invalid, func(b *store.Batch) { b.Release = []store.Claim{{Space: "s"}} }},
		{"checkpoint name is empty", invalid, func(b *store.Batch) { b.Checkpoints = []store.Checkpoint{{}} }},
	} {
		b := validBatch()
		c.spoil(b)
		err := b.Validate()
		if !errors.Is(err, c.target) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("validate a batch with %q wrong: got error %.200v, want one matching %q", c.text, err, c.target)
		}
	}
}

func TestBatchKnowsTheVersionAfterIt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		b    store.Batch
		want store.Version
	}{
		{store.Batch{}, 0},
		{store.Batch{Expected: 4}, 4},
		{store.Batch{Expected: 4, Events: make([]store.Event, 3)}, 7},
		{store.Batch{Expected: 4, Save: fullState()}, 5},
		{store.Batch{Expected: 4, Snapshot: fullState()}, 4},
	} {
		if got := c.b.Next(); got != c.want {
			t.Errorf("version after %+v: got %d, want %d", c.b, got, c.want)
		}
	}
}

func TestBatchWithoutRecordsIsACheck(t *testing.T) {
	t.Parallel()
	check := &store.Batch{Key: validBatch().Key, Expected: 1}
	if !check.IsCheck() {
		t.Errorf("%+v: got no check, want one", check)
	}
	for _, b := range []*store.Batch{
		validBatch(),
		{Save: fullState()},
		{Snapshot: fullState()},
		{Settle: make([]store.Settlement, 1)},
		{Cancel: make([]string, 1)},
		{Enqueue: make([]store.Message, 1)},
		{Forget: make([]string, 1)},
		{Receipts: make([]store.Receipt, 1)},
		{Release: make([]store.Claim, 1)},
		{Claim: make([]store.Claim, 1)},
		{Checkpoints: make([]store.Checkpoint, 1)},
	} {
		if b.IsCheck() {
			t.Errorf("%+v: got a check, want none", b)
		}
	}
}

func TestQueryMatchesByAllOfItsLists(t *testing.T) {
	t.Parallel()
	e := &store.Event{Key: store.Key{Kind: "book", ID: "a"}, Type: "t.A", Tags: []string{"red", "blue"}}
	for _, c := range []struct {
		q    store.Query
		want bool
	}{
		{store.Query{}, true},
		{store.Query{After: math.MaxUint64}, true},
		{store.Query{Kinds: []string{"shelf", "book"}}, true},
		{store.Query{Kinds: []string{"shelf"}}, false},
		{store.Query{Types: []string{"t.B", "t.A"}}, true},
		{store.Query{Types: []string{"t."}}, false},
		{store.Query{Tags: []string{"green", "blue"}}, true},
		{store.Query{Tags: []string{"green"}}, false},
		{store.Query{Kinds: []string{"book"}, Types: []string{"t.A"}, Tags: []string{"red"}}, true},
		{store.Query{Kinds: []string{"book"}, Types: []string{"t.B"}, Tags: []string{"red"}}, false},
	} {
		if got := c.q.Match(e); got != c.want {
			t.Errorf("match of %+v: got %t, want %t", c.q, got, c.want)
		}
	}
}

func TestCloneSharesNothing(t *testing.T) {
	t.Parallel()
	e, s := fullEvent(), fullState()
	ec, sc := e.Clone(), s.Clone()
	e.Payload[0], e.Tags[0], e.Metadata.Values["user"] = 99, "changed", "changed"
	s.Payload[0], s.Metadata.Values["user"] = 99, "changed"
	if want := fullEvent(); string(ec.Payload) != string(want.Payload) || ec.Tags[0] != want.Tags[0] || ec.Metadata.Values["user"] != "ada" {
		t.Errorf("clone of a changed event: got %+v, want %+v", ec, want)
	}
	if want := fullState(); string(sc.Payload) != string(want.Payload) || sc.Metadata.Values["user"] != "ada" {
		t.Errorf("clone of a changed state: got %+v, want %+v", sc, want)
	}
}

func TestCorrelationIsTheCauseUnlessGiven(t *testing.T) {
	t.Parallel()
	cause := store.ID{1, 2, 3}
	for _, c := range []struct {
		m    store.Metadata
		want string
	}{
		{store.Metadata{}, ""},
		{store.Metadata{CausationID: cause}, cause.String()},
		{store.Metadata{CausationID: cause, CorrelationID: "given"}, "given"},
		{store.Metadata{CorrelationID: "given"}, "given"},
	} {
		if got := c.m.Correlation(); got != c.want {
			t.Errorf("correlation of %+v: got %q, want %q", c.m, got, c.want)
		}
	}
}

func TestErrorsMatchAndSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	key := store.Key{Kind: "book", ID: "a"}
	for _, c := range []struct {
		err    error
		target error
		want   string
	}{
		{&store.ConflictError{Key: key, Expected: 1, Actual: 2}, store.ErrConflict, "append book/a: version conflict: expected version 1, found 2"},
		{&store.ConflictError{Key: key, AfterRefused: true}, store.ErrConflict, "append book/a: version conflict: an earlier batch of the entity was refused"},
		{&store.ClaimedError{Claim: store.Claim{Space: "s", Value: "v"}, Owner: key}, store.ErrClaimed, `claim "v" in "s": held by book/a`},
		{&store.MessageGoneError{Sequence: 7}, store.ErrMessageGone, "outbox message 7: message is settled"},
		{&store.CorruptError{What: "event", Reason: "r"}, store.ErrCorrupt, "corrupt event: r"},
		{
			&store.CorruptError{What: "event", Where: "file", Key: key, Version: 2, Position: 3, Reason: "r"},
			store.ErrCorrupt, "corrupt event of book/a version 2 at position 3 in file: r",
		},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("text: got %q, want %q", got, c.want)
		}
		if !errors.Is(c.err, c.target) {
			t.Errorf("%v: does not match %q", c.err, c.target)
		}
	}
}
