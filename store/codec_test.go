package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
	"github.com/perdure/perdure/store"
)

var noon = time.Date(2030, 5, 6, 12, 0, 0, 123456789, time.UTC)

func fullMetadata() store.Metadata {
	return store.Metadata{
		CausationID: store.ID{9}, CorrelationID: "conversation", TraceParent: "00-a-b-01", TraceState: "v=1",
		Values: map[string]string{"user": "ada", "empty": "", "ключ": "значение"},
	}
}

func fullEvent() *store.Event {
	return &store.Event{
		ID: store.ID{1, 2, 3}, Type: "test.v1.Happened", Key: store.Key{Kind: "book", ID: "978/ü"},
		Version: 300, Position: store.NewPosition(7, 1<<40), Tags: []string{"red", "blue", "red"},
		Metadata: fullMetadata(), Time: noon, Payload: []byte{0, 0xff, 1}, Remaining: 9_999,
	}
}

func fullState() *store.State {
	return &store.State{
		ID: store.ID{4, 5, 6}, Type: "test.v1.State", Key: store.Key{Kind: "book", ID: "978/ü"},
		Version: 300, Position: store.NewPosition(7, 1<<40), Metadata: fullMetadata(),
		Fingerprint: 0xfedcba9876543210, Fold: []byte{8, 0, 0xff}, Time: noon, Payload: []byte{0, 0xff, 1},
	}
}

func fullMessage() *store.Message {
	return &store.Message{
		Sequence: 77, ID: store.ID{1}, Source: store.Key{Kind: "book", ID: "a"}, Target: store.Key{Kind: "member", ID: "b"},
		Timer: "overdue", Due: noon, Type: "test.v1.Remind", Payload: []byte{1, 0}, Metadata: fullMetadata(),
		ReplyTo: store.Key{Kind: "shelf", ID: "c"}, ReplyName: "name", Unordered: true, Attempts: 3, LastError: "refused", Parked: true, Time: noon,
		Owner: 1<<63 + 5, Open: true, Every: "1h0m0s",
	}
}

func fullReceipt() *store.Receipt {
	return &store.Receipt{
		Entity: store.Key{Kind: "book", ID: "a"}, Name: "key", CommandID: store.ID{2}, Fingerprint: []byte{7},
		Version: 3, Position: 4, ReplyType: "test.v1.Book", Reply: []byte{1}, Time: noon, Order: 300,
		Refusal: &store.Refusal{Code: 9, Message: "lent", Details: []store.Detail{{Type: "test.v1.Loan", Payload: []byte{2}}}},
	}
}

// A record is one kind of record, for the tests that are the same for all kinds.
type record struct {
	name   string
	sealed []byte
	decode func(sealed []byte) (any, error)
	want   any
}

func records() []record {
	claimed := &store.Claimed{Claim: store.Claim{Space: "s", Value: "v"}, Owner: store.Key{Kind: "book", ID: "a"}, Time: noon}
	checkpoint := &store.Checkpoint{Name: "b", Position: 5, Time: noon}
	info := &store.LogInfo{ID: store.ID{3}, Format: 1, Partitions: 4096, Created: noon}
	return []record{
		{"event", store.AppendEvent(nil, fullEvent()), decodeEvent, fullEvent()},
		{"state", store.AppendState(nil, fullState()), decodeState, fullState()},
		{"message", store.AppendMessage(nil, fullMessage()), decodeAny(store.DecodeMessage), fullMessage()},
		{"receipt", store.AppendReceipt(nil, fullReceipt()), decodeAny(store.DecodeReceipt), fullReceipt()},
		{"claim", store.AppendClaimed(nil, claimed), decodeAny(store.DecodeClaimed), claimed},
		{"checkpoint", store.AppendCheckpoint(nil, checkpoint), decodeAny(store.DecodeCheckpoint), checkpoint},
		{"log info", store.AppendLogInfo(nil, info), decodeAny(store.DecodeLogInfo), info},
	}
}

func decodeEvent(sealed []byte) (any, error) {
	var d store.Decoder
	e := new(store.Event)
	return e, d.Event(sealed, e)
}

func decodeState(sealed []byte) (any, error) {
	var d store.Decoder
	s := new(store.State)
	return s, d.State(sealed, s)
}

func decodeAny[R any](decode func([]byte) (*R, error)) func([]byte) (any, error) {
	return func(sealed []byte) (any, error) { return decode(sealed) }
}

func TestDueTimeThatSortsAsNoneIsDecodedAsNone(t *testing.T) {
	t.Parallel()
	for _, due := range []time.Time{time.Unix(0, math.MinInt64), time.Unix(0, 0), {}} {
		m := fullMessage()
		m.Due = due
		got, err := store.DecodeMessage(store.AppendMessage(nil, m))
		if err != nil {
			t.Fatal(err)
		}
		if !got.Due.IsZero() {
			t.Errorf("a message that is due at %v is decoded as due at %v, want no due time", due, got.Due)
		}
	}
	for _, due := range []time.Time{time.Unix(0, math.MinInt64+1), time.Unix(0, -1), time.Unix(0, 1), time.Unix(0, math.MaxInt64)} {
		m := fullMessage()
		m.Due = due
		if got, err := store.DecodeMessage(store.AppendMessage(nil, m)); err != nil || !got.Due.Equal(due) {
			t.Errorf("a message that is due at %v is decoded as %+v, %v", due, got, err)
		}
	}
}

func TestRecordsAreDecodedAsTheyWereEncoded(t *testing.T) {
	t.Parallel()
	for _, r := range records() {
		got, err := r.decode(r.sealed)
		if err != nil {
			t.Errorf("decode %s: %v", r.name, err)
		} else if !reflect.DeepEqual(got, r.want) {
			t.Errorf("decode %s: got %+v, want %+v", r.name, got, r.want)
		}
	}
}

func TestRecordWithAFlippedBitIsNoticed(t *testing.T) {
	t.Parallel()
	for _, r := range records() {
		for bit := range len(r.sealed) * 8 {
			damaged := bytes.Clone(r.sealed)
			damaged[bit/8] ^= 1 << (bit % 8)
			if _, err := r.decode(damaged); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("decode %s with bit %d flipped: got error %v, want %v", r.name, bit, err, store.ErrCorrupt)
			}
		}
	}
}

func TestRecordThatIsShortenedIsNoticed(t *testing.T) {
	t.Parallel()
	for _, r := range records() {
		for n := range len(r.sealed) {
			if _, err := r.decode(r.sealed[:n]); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("decode the first %d bytes of %s: got error %v, want %v", n, r.name, err, store.ErrCorrupt)
			}
		}
		if _, err := r.decode(make([]byte, 64)); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("decode zeros as %s: got error %v, want %v", r.name, err, store.ErrCorrupt)
		}
	}
}

// Sealed bytes may still be no record, for example because of a bug.
func TestSealedNonsenseIsCorrupt(t *testing.T) {
	t.Parallel()
	short := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), []byte("short id"))
	for name, b := range map[string][]byte{
		"cut off length": {0x0a, 0xff},
		"field zero":     {0x00, 0x00},
		"open group":     {0x0b},
		"short id":       short,
	} {
		sealed := store.Seal(bytes.Clone(b), 0)
		for what, decode := range map[string]func([]byte) (any, error){"event": decodeEvent, "state": decodeState} {
			if _, err := decode(sealed); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("decode %s as %s: got error %v, want %v", name, what, err, store.ErrCorrupt)
			}
		}
	}
}

func TestEventWithoutAnEntityIsCorrupt(t *testing.T) {
	t.Parallel()
	var d store.Decoder
	e := fullEvent() // the record's entity id must not be confused with it
	if err := d.Event(store.Seal(nil, 0), e); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("decode an empty event: got error %v, want %v", err, store.ErrCorrupt)
	}
}

// eventProto and stateProto are the same records as generated messages.
func eventProto(e *store.Event) *perdurev1.Event {
	return &perdurev1.Event{
		Id: e.ID[:], Type: e.Type, Kind: e.Key.Kind, EntityId: e.Key.ID, Version: uint64(e.Version), Tags: e.Tags,
		Metadata: metadataProto(&e.Metadata), Payload: e.Payload, Position: uint64(e.Position), TimeUnixNano: e.Time.UnixNano(), More: e.Remaining,
	}
}

func stateProto(s *store.State) *perdurev1.State {
	return &perdurev1.State{
		Id: s.ID[:], Type: s.Type, Kind: s.Key.Kind, EntityId: s.Key.ID, Version: uint64(s.Version),
		Metadata: metadataProto(&s.Metadata), Payload: s.Payload, Fingerprint: s.Fingerprint, Fold: s.Fold,
		Position: uint64(s.Position), TimeUnixNano: s.Time.UnixNano(),
	}
}

func metadataProto(m *store.Metadata) *perdurev1.Metadata {
	if reflect.DeepEqual(*m, store.Metadata{}) {
		return nil
	}
	p := &perdurev1.Metadata{CorrelationId: m.CorrelationID, Traceparent: m.TraceParent, Tracestate: m.TraceState, Values: m.Values}
	if !m.CausationID.IsZero() {
		p.CausationId = m.CausationID[:]
	}
	return p
}

func events() map[string]*store.Event {
	plain := &store.Event{ID: store.ID{1}, Type: "t", Key: store.Key{Kind: "k", ID: "i"}, Version: 1, Position: 1, Time: noon}
	onlyCause := *plain
	onlyCause.Metadata.CausationID = store.ID{5}
	large := *plain
	large.Payload = bytes.Repeat([]byte{3}, 70_000)
	large.Version = math.MaxUint64
	large.Metadata.Values = map[string]string{strings.Repeat("k", 200): strings.Repeat("v", 20_000)}
	before1970 := *plain
	before1970.Time = time.Date(1969, 1, 1, 0, 0, 0, 1, time.UTC)
	return map[string]*store.Event{
		"full": fullEvent(), "plain": plain, "only a cause": &onlyCause, "large": &large, "before 1970": &before1970,
	}
}

func TestEventIsReadByTheGeneratedCode(t *testing.T) {
	t.Parallel()
	for name, e := range events() {
		wire, err := store.Unseal(store.AppendEvent(nil, e))
		if err != nil {
			t.Fatalf("unseal %s: %v", name, err)
		}
		got, want := new(perdurev1.Event), eventProto(e)
		if err := proto.Unmarshal(wire, got); err != nil {
			t.Errorf("unmarshal %s: %v", name, err)
		} else if !proto.Equal(got, want) {
			t.Errorf("unmarshal %s: got %.500v, want %.500v", name, got, want)
		}
	}
}

func TestEventOfTheGeneratedCodeIsDecoded(t *testing.T) {
	t.Parallel()
	for name, e := range events() {
		got, err := decodeEvent(sealProto(t, eventProto(e)))
		if err != nil {
			t.Errorf("decode %s: %v", name, err)
		} else if got := got.(*store.Event); !reflect.DeepEqual(got, e) {
			t.Errorf("decode %s: got %.500v, want %.500v", name, got, e)
		}
	}
}

func TestStateIsReadByTheGeneratedCode(t *testing.T) {
	t.Parallel()
	wire, err := store.Unseal(store.AppendState(nil, fullState()))
	if err != nil {
		t.Fatalf("unseal: %v", err)
	}
	got, want := new(perdurev1.State), stateProto(fullState())
	if err := proto.Unmarshal(wire, got); err != nil {
		t.Errorf("unmarshal: %v", err)
	} else if !proto.Equal(got, want) {
		t.Errorf("unmarshal: got %v, want %v", got, want)
	}
}

func TestStateOfTheGeneratedCodeIsDecoded(t *testing.T) {
	t.Parallel()
	got, err := decodeState(sealProto(t, stateProto(fullState())))
	if err != nil {
		t.Errorf("decode: %v", err)
	} else if !reflect.DeepEqual(got, fullState()) {
		t.Errorf("decode: got %+v, want %+v", got, fullState())
	}
}

func sealProto(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatalf("marshal: %v", err)
	}
	return store.Seal(b, 0)
}

// A later format may add fields; this version must ignore them.
func TestUnknownFieldsAreIgnored(t *testing.T) {
	t.Parallel()
	unknown := func(wire []byte) []byte {
		wire = protowire.AppendBytes(protowire.AppendTag(bytes.Clone(wire), 1000, protowire.BytesType), []byte("later"))
		wire = protowire.AppendVarint(protowire.AppendTag(wire, 1001, protowire.VarintType), 5)
		wire = protowire.AppendFixed32(protowire.AppendTag(wire, 1002, protowire.Fixed32Type), 5)
		wire = protowire.AppendFixed64(protowire.AppendTag(wire, 1003, protowire.Fixed64Type), 5)
		wire = protowire.AppendTag(protowire.AppendTag(wire, 1004, protowire.StartGroupType), 1004, protowire.EndGroupType)
		return store.Seal(wire, 0)
	}
	for _, r := range records() {
		wire, err := store.Unseal(r.sealed)
		if err != nil {
			t.Fatalf("unseal %s: %v", r.name, err)
		}
		got, err := r.decode(unknown(wire))
		if err != nil {
			t.Errorf("decode %s: %v", r.name, err)
		} else if !reflect.DeepEqual(got, r.want) {
			t.Errorf("decode %s: got %+v, want %+v", r.name, got, r.want)
		}
	}
}

func TestRecordsAreAppended(t *testing.T) {
	t.Parallel()
	prefix := []byte("prefix")
	got := store.AppendEvent(bytes.Clone(prefix), fullEvent())
	if want := append(prefix, store.AppendEvent(nil, fullEvent())...); !bytes.Equal(got, want) {
		t.Errorf("append an event: got %x, want %x", got, want)
	}
	got = store.AppendState(bytes.Clone(prefix), fullState())
	if want := append(prefix, store.AppendState(nil, fullState())...); !bytes.Equal(got, want) {
		t.Errorf("append a state: got %x, want %x", got, want)
	}
}

// Maps have no order; the stored form has one.
func TestEventEncodesToTheSameBytes(t *testing.T) {
	t.Parallel()
	want := store.AppendEvent(nil, fullEvent())
	for range 20 {
		if got := store.AppendEvent(nil, fullEvent()); !bytes.Equal(got, want) {
			t.Fatalf("append an event: got %x, want %x", got, want)
		}
	}
}

func TestPrepareGivesTheSameBytes(t *testing.T) {
	t.Parallel()
	for name, e := range events() {
		e.Remaining = 1
		b := &store.Batch{Key: e.Key, Expected: e.Version - 1, Events: []store.Event{*e.Clone(), *e.Clone()}}
		if err := b.Prepare(); err != nil {
			t.Errorf("prepare %s: %v", name, err)
			continue
		}
		prepared := &b.Events[0]
		prepared.Position, prepared.Time = e.Position, e.Time
		if got, want := store.AppendEvent(nil, prepared), store.AppendEvent(nil, e); !bytes.Equal(got, want) {
			t.Errorf("append prepared %s: got %.100x, want %.100x", name, got, want)
		}
		if got := prepared.Clone(); !reflect.DeepEqual(got.Payload, e.Clone().Payload) && len(got.Payload)+len(e.Payload) > 0 {
			t.Errorf("payload of prepared %s: got %.100x, want %.100x", name, got.Payload, e.Payload)
		}
	}
}

func TestPrepareGivesEventsTheirVersions(t *testing.T) {
	t.Parallel()
	b := &store.Batch{Key: store.Key{Kind: "k", ID: "i"}, Expected: 7, Events: []store.Event{*fullEvent(), *fullEvent()}}
	if err := b.Prepare(); err != nil {
		t.Fatalf("prepare: %v", err)
	}
	for i, e := range b.Events {
		if want := store.Version(8 + i); e.Version != want || e.Key != b.Key {
			t.Errorf("event %d: got %v at version %d, want %v at version %d", i, e.Key, e.Version, b.Key, want)
		}
	}
}

func TestPrepareRefusesAnInvalidBatch(t *testing.T) {
	t.Parallel()
	b := &store.Batch{Key: store.Key{Kind: "k", ID: "i"}, Events: []store.Event{{}}}
	if err := b.Prepare(); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("prepare: got error %v, want %v", err, store.ErrInvalid)
	}
}

func TestSizeEventIsEnough(t *testing.T) {
	t.Parallel()
	for name, e := range events() {
		size, n := store.SizeEvent(e), len(store.AppendEvent(nil, e))
		if size < n || size > n+64 {
			t.Errorf("size of %s: got %d, want %d or a few more", name, size, n)
		}
	}
}

// Not parallel, because allocations of other tests would be counted too.
//
//nolint:paralleltest // other goroutines would be counted too
func TestDecodingEventsAllocatesNothing(t *testing.T) {
	e := fullEvent()
	e.Metadata = store.Metadata{CausationID: store.ID{9}}
	sealed := store.AppendEvent(nil, e)
	var d store.Decoder
	var into store.Event
	got := testing.AllocsPerRun(1000, func() {
		if err := d.Event(sealed, &into); err != nil {
			t.Fatalf("decode: %v", err)
		}
	})
	if got != 0 {
		t.Errorf("decoding an event again allocates %v times, want 0", got)
	}
}

func TestDecoderMeetsMoreNamesThanItRemembers(t *testing.T) {
	t.Parallel()
	var d store.Decoder
	var e store.Event
	for i := range 10_000 {
		w := fullEvent()
		w.Type = fmt.Sprint("test.v1.Type", i)
		if err := d.Event(store.AppendEvent(nil, w), &e); err != nil {
			t.Fatalf("decode: %v", err)
		}
		if e.Type != w.Type || e.Tags[1] != "blue" || e.Key != w.Key {
			t.Fatalf("decode: got %+v, want %+v", e, w)
		}
	}
}

func TestDecodedEventKeepsNothingOfTheOneBefore(t *testing.T) {
	t.Parallel()
	var d store.Decoder
	e := fullEvent()
	plain := events()["plain"]
	if err := d.Event(store.AppendEvent(nil, plain), e); err != nil {
		t.Fatalf("decode: %v", err)
	}
	if len(e.Tags) > 0 {
		t.Errorf("tags: got %q, want none", e.Tags)
	}
	e.Tags = nil // the other event has none
	if !reflect.DeepEqual(e, plain) {
		t.Errorf("decode: got %+v, want %+v", e, plain)
	}
}

// Two flipped bits are noticed too, wherever they are: the polynomial is chosen for that.
func TestRecordWithTwoFlippedBitsIsNoticed(t *testing.T) {
	t.Parallel()
	sealed := store.Seal([]byte("short"), 0)
	for i := range len(sealed) * 8 {
		for j := range i {
			damaged := bytes.Clone(sealed)
			damaged[i/8] ^= 1 << (i % 8)
			damaged[j/8] ^= 1 << (j % 8)
			if _, err := store.Unseal(damaged); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("unseal %x, which is %x with bits %d and %d flipped: got %v, want an error that matches %v", damaged, sealed, i, j, err, store.ErrCorrupt)
			}
		}
	}
}

func FuzzDecodeEvent(f *testing.F) {
	for _, e := range events() {
		f.Add(store.AppendEvent(nil, e))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var d store.Decoder
		var e store.Event
		if err := d.Event(b, &e); err != nil && !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("decode %x: got error %v, want one matching %v", b, err, store.ErrCorrupt)
		}
		// sealed bytes pass the checksum and get to the parser
		frugal(t, b, func() { _ = d.Event(store.Seal(bytes.Clone(b), 0), new(store.Event)) })
		if err := d.Event(store.Seal(bytes.Clone(b), 0), &e); err != nil {
			if !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("decode sealed %x: got error %v, want one matching %v", b, err, store.ErrCorrupt)
			}
			return
		}
		var again store.Event
		if err := d.Event(store.AppendEvent(nil, &e), &again); err != nil {
			if e.Key.ID != "" { // an event without an entity is corrupt
				t.Errorf("decode %+v again: %v", e, err)
			}
			return
		}
		if again.ID != e.ID || again.Key != e.Key || again.Version != e.Version || again.Position != e.Position || !bytes.Equal(again.Payload, e.Payload) {
			t.Errorf("decode %x again: got %+v, want %+v", b, again, e)
		}
	})
}

func FuzzDecodeState(f *testing.F) {
	f.Add(store.AppendState(nil, fullState()))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, sealed := range [][]byte{b, store.Seal(bytes.Clone(b), 0)} {
			var d store.Decoder
			var s, again store.State
			frugal(t, sealed, func() { _ = d.State(sealed, new(store.State)) })
			if err := d.State(sealed, &s); err != nil {
				if !errors.Is(err, store.ErrCorrupt) {
					t.Errorf("decode %x: got error %v, want one matching %v", sealed, err, store.ErrCorrupt)
				}
				continue
			}
			if err := d.State(store.AppendState(nil, &s), &again); err != nil {
				t.Errorf("decode %+v again: %v", s, err)
			}
			if again.ID != s.ID || again.Key != s.Key || again.Version != s.Version || again.Fingerprint != s.Fingerprint || !bytes.Equal(again.Payload, s.Payload) {
				t.Errorf("decode %x again: got %+v, want %+v", b, again, s)
			}
		}
	})
}

func FuzzDecodeMessage(f *testing.F) {
	f.Add(store.AppendMessage(nil, fullMessage()))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, sealed := range [][]byte{b, store.Seal(bytes.Clone(b), 0)} {
			frugal(t, sealed, func() { _, _ = store.DecodeMessage(sealed) })
			m, err := store.DecodeMessage(sealed)
			if err != nil {
				if !errors.Is(err, store.ErrCorrupt) {
					t.Errorf("decode %x: got error %v, want one matching %v", sealed, err, store.ErrCorrupt)
				}
				continue
			}
			again, err := store.DecodeMessage(store.AppendMessage(nil, m))
			if err != nil || again.Sequence != m.Sequence || again.ID != m.ID || !again.Due.Equal(m.Due) || !bytes.Equal(again.Payload, m.Payload) {
				t.Errorf("decode %x again: got %+v and error %v, want %+v", b, again, err, m)
			}
		}
	})
}

func BenchmarkAppendEvent(b *testing.B) {
	e := fullEvent()
	e.Payload = make([]byte, 400)
	buf := store.AppendEvent(nil, e)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		buf = store.AppendEvent(buf[:0], e)
	}
}

func BenchmarkPrepare(b *testing.B) {
	e := fullEvent()
	e.Payload = make([]byte, 400)
	b.ReportAllocs()
	for b.Loop() {
		batch := store.Batch{Key: e.Key, Events: []store.Event{*e}}
		if err := batch.Prepare(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeEvent(b *testing.B) {
	e := fullEvent()
	e.Metadata = store.Metadata{CausationID: store.ID{9}}
	e.Payload = make([]byte, 400)
	sealed := store.AppendEvent(nil, e)
	var d store.Decoder
	var into store.Event
	b.SetBytes(int64(len(sealed)))
	b.ReportAllocs()
	for b.Loop() {
		if err := d.Event(sealed, &into); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeMessage(b *testing.B) {
	sealed := store.AppendMessage(nil, fullMessage())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := store.DecodeMessage(sealed); err != nil {
			b.Fatal(err)
		}
	}
}

// TestReceiptIsTheMessageThatProtobufWrites compares the hand-written encoding with the
// generated one.
func TestReceiptIsTheMessageThatProtobufWrites(t *testing.T) {
	t.Parallel()
	refused := fullReceipt()
	refused.Refusal = &store.Refusal{Code: 9, Message: "no", Details: []store.Detail{{Type: "test.v1.Why", Payload: []byte{1}}}}
	done := fullReceipt()
	done.Refusal = nil
	for name, r := range map[string]*store.Receipt{
		"refused": refused, "done": done, "full": fullReceipt(), "with nothing": {Entity: store.Key{Kind: "k", ID: "i"}, Name: "n"},
	} {
		m := &perdurev1.Receipt{
			Kind: r.Entity.Kind, EntityId: r.Entity.ID, Key: r.Name, CommandId: r.CommandID[:], Fingerprint: r.Fingerprint,
			Version: uint64(r.Version), Position: uint64(r.Position), ReplyType: r.ReplyType, Reply: r.Reply, Order: r.Order,
		}
		if !r.Time.IsZero() {
			m.TimeUnixNano = r.Time.UnixNano()
		}
		if r.Refusal != nil {
			m.Refusal = r.Refusal.Proto()
		}
		want, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := store.Unseal(store.AppendReceipt(nil, r)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("receipt %s: got %x (%v), want %x", name, got, err, want)
		}
	}
}
