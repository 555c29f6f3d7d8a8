package storetest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perdure/perdure/store"
)

// waitMax bounds every wait of the suite.
const waitMax = 30 * time.Second

// A fixture is one log under test, with helpers for the cases.
type fixture struct {
	testing.TB
	open     Open
	features Features
	setup    Setup
	log      store.Log
	ctx      context.Context
	ids      atomic.Uint64
}

func newFixture(t testing.TB, open Open, f Features, s Setup) *fixture {
	t.Helper()
	if s.Partitions == 0 {
		s.Partitions = 1
	}
	x := &fixture{TB: t, open: open, features: f, setup: s, log: open(t, s), ctx: t.Context()}
	t.Cleanup(func() {
		if err := x.log.Close(); err != nil && !errors.Is(err, store.ErrClosed) {
			t.Errorf("close at the end of the case: %v", err)
		}
	})
	return x
}

// id returns an id that is new within the case.
func (x *fixture) id() store.ID {
	var id store.ID
	binary.BigEndian.PutUint64(id[8:], x.ids.Add(1))
	id[6] = 0x70 // version 7
	return id
}

func book(id string) store.Key { return store.Key{Kind: "book", ID: id} }

// event returns an event whose payload is the text.
func (x *fixture) event(text string, tags ...string) store.Event {
	return store.Event{ID: x.id(), Type: "test.v1.Happened", Payload: []byte(text), Tags: tags}
}

func (x *fixture) events(texts ...string) []store.Event {
	events := make([]store.Event, len(texts))
	for i, text := range texts {
		events[i] = x.event(text)
	}
	return events
}

func (x *fixture) state(text string) *store.State {
	return &store.State{ID: x.id(), Type: "test.v1.State", Payload: []byte(text)}
}

func (x *fixture) message(text string) store.Message {
	return store.Message{ID: x.id(), Type: "test.v1.Message", Payload: []byte(text)}
}

func (x *fixture) timer(name, text string, due time.Time) store.Message {
	m := x.message(text)
	m.Timer, m.Due = name, due
	return m
}

// group commits batches as one group and returns their results.
func (x *fixture) group(batches ...*store.Batch) []store.Result {
	x.Helper()
	results, err := x.log.Commit(x.ctx, batches)
	if err != nil {
		x.Fatalf("commit of %d batches: %v", len(batches), err)
	}
	if len(results) != len(batches) {
		x.Fatalf("commit of %d batches: got %d results", len(batches), len(results))
	}
	return results
}

// try commits one batch and returns its result, refused or not.
func (x *fixture) try(b *store.Batch) store.Result {
	x.Helper()
	return x.group(b)[0]
}

// commit commits one batch that must be accepted.
func (x *fixture) commit(b *store.Batch) store.Result {
	x.Helper()
	r := x.try(b)
	if r.Err != nil {
		x.Fatalf("commit of a batch of %v that expects version %d: %v", b.Key, b.Expected, r.Err)
	}
	return r
}

// append commits events with the given texts.
func (x *fixture) append(key store.Key, expected store.Version, texts ...string) store.Result {
	x.Helper()
	return x.commit(&store.Batch{Key: key, Expected: expected, Events: x.events(texts...)})
}

func (x *fixture) read(key store.Key, after store.Version) []*store.Event {
	x.Helper()
	var events []*store.Event
	for e, err := range x.log.Read(x.ctx, key, after) {
		if err != nil {
			x.Fatalf("read %v after version %d: %v", key, after, err)
		}
		events = append(events, kept(e))
	}
	return events
}

func (x *fixture) scan(q store.Query) []*store.Event {
	x.Helper()
	var events []*store.Event
	for e, err := range x.log.Scan(x.ctx, q) {
		if err != nil {
			x.Fatalf("scan %+v: %v", q, err)
		}
		events = append(events, kept(e))
	}
	return events
}

// kept returns a copy of an event in which empty fields are nil, because a store may return
// either form.
func kept(e *store.Event) *store.Event {
	e = e.Clone()
	if len(e.Tags) == 0 {
		e.Tags = nil
	}
	if len(e.Payload) == 0 {
		e.Payload = nil
	}
	if len(e.Metadata.Values) == 0 {
		e.Metadata.Values = nil
	}
	return e
}

// load loads an entity. It returns the events, and all states that were offered until
// accept returned true.
func (x *fixture) load(key store.Key, accept func(*store.State) bool) (offered []*store.State, events []*store.Event) {
	x.Helper()
	seq := x.log.Load(x.ctx, key, func(s *store.State) bool {
		offered = append(offered, s.Clone())
		return accept(s)
	})
	for e, err := range seq {
		if err != nil {
			x.Fatalf("load %v: %v", key, err)
		}
		events = append(events, kept(e))
	}
	return offered, events
}

func always(*store.State) bool { return true }
func never(*store.State) bool  { return false }

// latest returns the state that Load offers first, or nil.
func (x *fixture) latest(key store.Key) *store.State {
	x.Helper()
	offered, _ := x.load(key, always)
	if len(offered) == 0 {
		return nil
	}
	return offered[0]
}

func (x *fixture) heads() []store.Position {
	x.Helper()
	heads, err := x.log.Heads(x.ctx)
	if err != nil {
		x.Fatalf("heads: %v", err)
	}
	return heads
}

func (x *fixture) messages(q store.MessageQuery) []*store.Message {
	x.Helper()
	return x.all(fmt.Sprintf("outbox %+v", q), x.log.Messages(x.ctx, q))
}

func (x *fixture) receipts(key store.Key) []*store.Receipt {
	x.Helper()
	var receipts []*store.Receipt
	for r, err := range x.log.Receipts(x.ctx, key) {
		if err != nil {
			x.Fatalf("receipts of %v: %v", key, err)
		}
		receipts = append(receipts, r)
	}
	return receipts
}

func (x *fixture) claims(space string) []store.Claimed {
	x.Helper()
	var held []store.Claimed
	for c, err := range x.log.Claims(x.ctx, space) {
		if err != nil {
			x.Fatalf("claims of %q: %v", space, err)
		}
		held = append(held, c)
	}
	return held
}

// owner returns the owner of a value, or the zero key.
func (x *fixture) owner(c store.Claim) store.Key {
	x.Helper()
	owner, err := x.log.Owner(x.ctx, c)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		x.Fatalf("owner of %+v: %v", c, err)
	}
	if err != nil && !owner.IsZero() {
		x.Fatalf("owner of %+v: got both %v and error %v", c, owner, err)
	}
	return owner
}

func (x *fixture) checkpoints() []store.Checkpoint {
	x.Helper()
	marks, err := x.log.Checkpoints(x.ctx)
	if err != nil {
		x.Fatalf("checkpoints: %v", err)
	}
	return marks
}

func (x *fixture) entities(kind, after string) []store.Entity {
	x.Helper()
	var entities []store.Entity
	for e, err := range x.log.Entities(x.ctx, kind, after) {
		if err != nil {
			x.Fatalf("entities of %q after %q: %v", kind, after, err)
		}
		entities = append(entities, e)
	}
	return entities
}

// reopen closes the log and opens it again.
func (x *fixture) reopen() {
	x.Helper()
	x.log = x.features.Reopen(x, x.log, x.setup)
}

// damage replaces the log by one in which flip has changed the stored form of a record.
func (x *fixture) damage(record any, flip func([]byte)) {
	x.Helper()
	x.log = x.features.Damage(x, x.log, record, flip)
}

// ---- checks

// want fails unless got equals want.
func want[V any](x *fixture, what string, got, want V) {
	x.Helper()
	if !reflect.DeepEqual(got, want) {
		x.Errorf("%s: got %s, want %s", what, show(got), show(want))
	}
}

// show formats a value. For a slice of pointers it shows the values that they point to.
func show(v any) string {
	list := reflect.ValueOf(v)
	if list.Kind() != reflect.Slice || list.Type().Elem().Kind() != reflect.Pointer {
		return fmt.Sprintf("%+v", v)
	}
	parts := make([]string, list.Len())
	for i := range parts {
		parts[i] = fmt.Sprintf("%+v", list.Index(i).Interface())
	}
	return "[" + strings.Join(parts, " ") + "]"
}

// wantError fails unless err matches target.
func (x *fixture) wantError(what string, err, target error) {
	x.Helper()
	if !errors.Is(err, target) {
		x.Errorf("%s: got error %v, want one matching %q", what, err, target)
	}
}

// wantTexts fails unless the payloads of the events are the texts.
func (x *fixture) wantTexts(what string, events []*store.Event, texts ...string) {
	x.Helper()
	if got := textsOf(events); !slices.Equal(got, texts) {
		x.Errorf("%s: got events %.200q, want %.200q", what, got, texts)
	}
}

func textsOf(events []*store.Event) []string {
	var texts []string
	for _, e := range events {
		texts = append(texts, string(e.Payload))
	}
	return texts
}

// wantMessages fails unless the payloads of the messages are the texts.
func (x *fixture) wantMessages(what string, messages []*store.Message, texts ...string) {
	x.Helper()
	var got []string
	for _, m := range messages {
		got = append(got, string(m.Payload))
	}
	if !slices.Equal(got, texts) {
		x.Errorf("%s: got messages %q, want %q", what, got, texts)
	}
}

// wantVersion fails unless the entity is at the version.
func (x *fixture) wantVersion(key store.Key, version store.Version) {
	x.Helper()
	if r := x.try(&store.Batch{Key: key, Expected: version}); r.Err != nil {
		x.Errorf("version of %v: got %v, want %d", key, r.Err, version)
	}
}

// wantConflict fails unless err is a conflict with these fields.
func (x *fixture) wantConflict(what string, err error, want store.ConflictError) {
	x.Helper()
	x.wantError(what, err, store.ErrConflict)
	var got *store.ConflictError
	if !errors.As(err, &got) {
		x.Errorf("%s: got a %T, want a *store.ConflictError", what, err)
		return
	}
	if want.AfterRefused {
		want.Actual = got.Actual // the actual version is not known in this case
	}
	if *got != want {
		x.Errorf("%s: got %+v, want %+v", what, *got, want)
	}
}

// wantNoError ends the case with a failure if err is not nil.
func (x *fixture) wantNoError(what string, err error) {
	x.Helper()
	if err != nil {
		x.Fatalf("%s: %v", what, err)
	}
}

// first returns the first error of a sequence, or nil. It fails if the sequence continues
// after the error.
func first[V any](x *fixture, what string, seq func(yield func(V, error) bool)) error {
	x.Helper()
	var first error
	for _, err := range seq {
		if first != nil {
			x.Errorf("%s: goes on after the error %v", what, first)
			break
		}
		first = err
	}
	return first
}

// soon waits for a signal, for waitMax at most.
func (x *fixture) soon(what string, done <-chan struct{}) {
	x.Helper()
	select {
	case <-done:
	case <-time.After(waitMax):
		x.Fatalf("waited %v for %s", waitMax, what)
	}
}

// numbered returns texts with numbers from 1.
func numbered(format string, n int) []string {
	texts := make([]string, n)
	for i := range texts {
		texts[i] = fmt.Sprintf(format, i+1)
	}
	return texts
}
