package projectiontest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
)

// A plain target keeps two maps, which it copies for every transaction. A twist can break it in
// many ways.
type plain struct {
	twist
	writing chan struct{}
	shared  *plainData
	fail    error // the error of the next commit
	buf     []byte
}

// A twist has one field for each way to break the target.
type twist struct {
	commitsFailed, commitsPanics, swallows, renames, catches   bool
	notesApart, modelAlone, valueEarly, readsAnew, halfAtATime bool
	viewStores, viewSilent, waitsDeaf, keepsLock               bool
	noLock, locksOne, lies, silent, loses, apart               bool
	emptyIsNone, emptyIsNil, oneBuffer, contextLate            bool
	leaksListing, removesNothing, unsound, blindToOwn, idle    bool
	checksNothing, checksTooMuch, blamesAll, blamesNone        bool
	volatile                                                   bool

	key   func(string) string
	value func([]byte) []byte
	list  func(all []projection.Note, prefix string) []projection.Note
}

type plainData struct {
	mu            sync.Mutex
	values, notes map[string]string
}

type plainTx struct {
	values, notes map[string]string
	before        map[string]string // the notes before the transaction
	view          bool
	listing       bool
	spoilt        bool // a rule has spoilt the transaction
}

func newPlain(w twist) *plain {
	return &plain{
		twist: w, writing: make(chan struct{}, 1),
		shared: &plainData{values: map[string]string{}, notes: map[string]string{}},
	}
}

func (p *plain) reopen() *plain {
	o := newPlain(p.twist)
	if p.loses {
		return o
	}
	o.shared = p.shared
	if p.apart {
		o.shared = &plainData{values: maps.Clone(p.shared.values), notes: maps.Clone(p.shared.notes)}
	}
	if !p.locksOne {
		o.writing = p.writing
	}
	return o
}

func (d *plainData) begin(view bool) *plainTx {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &plainTx{values: maps.Clone(d.values), notes: maps.Clone(d.notes), before: maps.Clone(d.notes), view: view}
}

func (d *plainData) commit(values, notes map[string]string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if values != nil {
		d.values = values
	}
	if notes != nil {
		d.notes = notes
	}
}

func (p *plain) Update(ctx context.Context, do func(*plainTx) error) (failure error) {
	if p.contextLate {
		defer func(ctx context.Context) { failure = errors.Join(failure, ctx.Err()) }(ctx)
		ctx = context.WithoutCancel(ctx)
	}
	if !p.noLock {
		wait := ctx
		if p.waitsDeaf {
			wait = context.WithoutCancel(ctx)
		}
		select {
		case p.writing <- struct{}{}:
			if !p.keepsLock {
				defer func() { <-p.writing }()
			}
		case <-wait.Done():
			return errors.Join(wait.Err(), store.ErrNotStored)
		}
	}
	if err := ctx.Err(); err != nil {
		return errors.Join(err, store.ErrNotStored)
	}
	tx := p.shared.begin(false)
	if p.commitsPanics {
		defer func() {
			if r := recover(); r != nil {
				p.shared.commit(tx.values, tx.notes)
				panic(r)
			}
		}()
	}
	if p.catches {
		defer func() {
			if r := recover(); r != nil {
				failure = fmt.Errorf("panic: %v", r)
			}
		}()
	}
	ended := false
	defer func() {
		if !ended && p.unsound {
			p.shared.commit(tx.values, tx.notes)
		}
	}()
	err := do(tx)
	ended = true
	if p.keepsLock {
		<-p.writing // not reached if do has panicked
	}
	return p.end(ctx, tx, err)
}

// end commits a transaction, or drops it.
func (p *plain) end(ctx context.Context, tx *plainTx, err error) error {
	switch {
	case p.swallows && err != nil:
		return nil //nolint:nilerr // this mistake is the point of the mutant
	case p.renames && err != nil:
		return errors.New(err.Error())
	case p.notesApart && err != nil:
		p.shared.commit(nil, tx.notes)
	case p.commitsFailed && err != nil:
		p.shared.commit(tx.values, tx.notes)
	}
	if err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return errors.Join(err, store.ErrNotStored)
	}
	if tx.spoilt {
		return errors.Join(errSpoilt, store.ErrNotStored)
	}
	if p.idle && len(tx.values) == 0 {
		return errors.New("nothing to commit")
	}
	if p.leaksListing && tx.listing {
		return errors.New("a listing is still open")
	}
	err = p.failure()
	if !errors.Is(err, store.ErrNotStored) {
		p.commit(tx)
	}
	switch {
	case err != nil && p.silent:
		return nil
	case err != nil && p.lies:
		return errors.Join(err, store.ErrNotStored)
	}
	return err
}

// failure returns the error for the commit, or nil. In mutants several commits may run at once.
func (p *plain) failure() (err error) {
	p.shared.mu.Lock()
	defer p.shared.mu.Unlock()
	err, p.fail = p.fail, nil
	return err
}

func (p *plain) commit(tx *plainTx) {
	switch {
	case p.modelAlone:
		p.shared.commit(tx.values, nil)
	case p.halfAtATime:
		p.shared.commit(tx.values, nil)
		runtime.Gosched()
		p.shared.commit(nil, tx.notes)
	default:
		p.shared.commit(tx.values, tx.notes)
	}
}

func (p *plain) View(ctx context.Context, do func(*plainTx) error) (failure error) {
	if err := ctx.Err(); err != nil && !p.contextLate {
		return err
	}
	if p.keepsLock || p.viewStores {
		p.writing <- struct{}{}
	}
	if p.catches {
		defer func() {
			if r := recover(); r != nil {
				failure = fmt.Errorf("panic: %v", r)
			}
		}()
	}
	tx := p.shared.begin(!p.viewStores)
	err := do(tx)
	if p.keepsLock || p.viewStores {
		<-p.writing
	}
	if p.viewStores {
		p.shared.commit(tx.values, tx.notes)
	}
	if p.swallows {
		return nil
	}
	return err
}

var (
	errSpoilt = errors.New("the transaction is spoilt")
	errFull   = errors.New("there is no room")
	errRow    = errors.New("the row is there already")
)

// Check implements projection.Checker.
func (p *plain) Check(_ context.Context, tx *plainTx) error {
	if tx.spoilt && !p.checksNothing || p.checksTooMuch && len(tx.values) > 0 {
		return errSpoilt
	}
	return nil
}

// Blame implements projection.Classifier.
func (p *plain) Blame(err error) projection.Blame {
	if errors.Is(err, errFull) && !p.blamesNone || p.blamesAll {
		return projection.BlameTarget
	}
	return projection.BlameUnknown
}

// Volatile implements projection.Volatile.
func (p *plain) Volatile() bool { return p.volatile }

func (p *plain) name(key string) string {
	if p.key != nil {
		return p.key(key)
	}
	return key
}

func (p *plain) Note(_ context.Context, tx *plainTx, key string) ([]byte, error) {
	notes := tx.notes
	switch {
	case p.readsAnew && tx.view:
		notes = p.shared.begin(true).notes
	case p.blindToOwn:
		notes = tx.before
	}
	v, ok := notes[p.name(key)]
	switch {
	case !ok:
		return nil, nil
	case v == "" && p.emptyIsNil:
		return nil, nil
	case p.oneBuffer:
		p.buf = append(p.buf[:0], v...)
		return p.buf, nil
	}
	return []byte(v), nil
}

func (p *plain) SetNote(_ context.Context, tx *plainTx, key string, value []byte) error {
	key = p.name(key)
	if p.value != nil && value != nil {
		value = p.value(value)
	}
	n := projection.Note{Key: key, Value: value}
	if err := n.Validate(); err != nil {
		return err
	}
	switch {
	case tx.view && p.viewSilent:
		return nil
	case tx.view:
		return errors.New("a view stores nothing")
	case value == nil && p.removesNothing:
	case value == nil || len(value) == 0 && p.emptyIsNone:
		delete(tx.notes, key)
	default:
		tx.notes[key] = string(value)
	}
	if p.valueEarly {
		p.shared.mu.Lock()
		defer p.shared.mu.Unlock()
		p.shared.notes[key] = string(value)
	}
	return nil
}

func (p *plain) Notes(_ context.Context, tx *plainTx, prefix string) iter.Seq2[projection.Note, error] {
	return func(yield func(projection.Note, error) bool) {
		var all []projection.Note
		for _, k := range slices.Sorted(maps.Keys(tx.notes)) {
			if p.list != nil || strings.HasPrefix(k, prefix) {
				all = append(all, projection.Note{Key: k, Value: []byte(tx.notes[k])})
			}
		}
		if p.list != nil {
			all = p.list(all, prefix)
		}
		for _, n := range all {
			if !yield(n, nil) {
				tx.listing = true
				return
			}
		}
	}
}

// cutAtZero cuts a value at its first zero byte.
func cutAtZero(b []byte) []byte {
	b, _, _ = bytes.Cut(b, []byte{0})
	return append([]byte{}, b...)
}
