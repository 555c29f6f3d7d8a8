// Package memorytarget keeps a read model in memory. The model is a Go value, handlers are plain
// functions on a pointer to it, and each transaction works on a copy, so that a transaction that
// fails changes nothing. Its ordered map [Table] makes the copies cheap.
package memorytarget

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
)

// A Target keeps a read model in memory. It keeps nothing beyond the process: with every start a
// projection builds the model from the log again, which is fast for a small model. A transaction
// is a pointer to a copy of the model. Many goroutines may call all its methods at once.
//
// Readers do not wait: a View gets the model of the last commit, whatever an Update does at the
// same time. Updates run one after the other.
//
// # Why the model is a struct of tables
//
// When a handler fails or panics half-way, the model must be as it was before. Changes to
// ordinary maps and slices cannot be undone, and a copy of the whole model before each
// transaction costs more the larger the model is. So a model holds its entries in a [Table],
// which shares all unchanged entries with its copies. Then a copy of the model is a copy of a
// struct, a rollback drops the copy, and a commit replaces one pointer. [NewClone] keeps a
// model of another form, such as one protobuf message, and pays for the copies.
type Target[M any] struct {
	clone   func(*M) *M
	tables  [][]int // where the tables are in M
	writing chan struct{}
	current atomic.Pointer[state[M]]

	mu   sync.Mutex
	open map[*M]transaction[M]
}

// A state is the result of a commit. It never changes.
type state[M any] struct {
	model *M
	notes Table[string, string]
}

// A transaction is an Update or a View in progress.
type transaction[M any] struct {
	state *state[M]
	write bool
}

var _ projection.Target[*struct{}] = (*Target[struct{}])(nil)

// table is the interface that a Target needs from the tables of a model.
type table interface {
	begin(l *life)
	check() error
}

// New returns a target that begins with a model: a struct of plain values and of [Table]s,
// which may be nested. If two copies of the model would share a field, such as a map, New
// returns an error that names the field.
func New[M any](model M) (*Target[M], error) {
	t := newTarget[M]()
	err := t.inspect(reflect.TypeFor[M](), nil, nil)
	if err != nil {
		return nil, fmt.Errorf("make memory target for %v: %w", reflect.TypeFor[M](), err)
	}
	t.clone = copyStruct[M]
	t.publish(&state[M]{model: t.clone(&model)}, &life{})
	return t, nil
}

// NewClone returns a target that begins with a model of any form. It copies the whole model
// by clone, such as proto.CloneOf, for each Update and each View. Use it for small models. It
// panics if model or clone is nil, and an Update or View panics if clone does not return another
// model.
func NewClone[M any](model *M, clone func(*M) *M) *Target[M] {
	if model == nil || clone == nil {
		panic("memorytarget: NewClone without a model or without a function to copy it")
	}
	t := newTarget[M]()
	t.clone = func(model *M) *M {
		c := clone(model)
		if c == nil || c == model {
			panic("memorytarget: the function that copies the model of a memory target does not")
		}
		return c
	}
	t.publish(&state[M]{model: t.clone(model)}, &life{})
	return t
}

func newTarget[M any]() *Target[M] {
	return &Target[M]{writing: make(chan struct{}, 1), open: make(map[*M]transaction[M])}
}

// copyStruct copies a struct to an address that no other copy has, even if the struct is empty.
func copyStruct[M any](model *M) *M {
	c := &struct {
		model M
		_     byte
	}{model: *model}
	return &c.model
}

// inspect finds the tables of a model, and returns an error for fields that a model cannot have.
func (t *Target[M]) inspect(typ reflect.Type, path []int, names []string) error {
	if isTable(typ) {
		if err := reflect.New(typ).Interface().(table).check(); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(names, "."), err)
		}
		t.tables = append(t.tables, path)
		return nil
	}
	why := ""
	switch {
	case typ.Kind() == reflect.Array && holdsTable(typ.Elem()):
		why = "a table in an array"
	case typ.Kind() != reflect.Struct || shared(typ) == "":
		why = shared(typ)
	default:
		for f := range typ.Fields() {
			if err := t.inspect(f.Type, append(slices.Clip(path), f.Index[0]), append(slices.Clip(names), f.Name)); err != nil {
				return err
			}
		}
	}
	if why != "" {
		return fmt.Errorf("%w: %s: %s (use a memorytarget.Table, or NewClone)", store.ErrInvalid, strings.Join(names, "."), why)
	}
	return nil
}

// isTable distinguishes a Table from a struct that embeds one.
func isTable(t reflect.Type) bool {
	return t.PkgPath() == reflect.TypeFor[edit]().PkgPath() && strings.HasPrefix(t.Name(), "Table[")
}

func holdsTable(t reflect.Type) bool {
	if isTable(t) {
		return true
	}
	switch t.Kind() {
	case reflect.Array:
		return holdsTable(t.Elem())
	case reflect.Struct:
		for f := range t.Fields() {
			if holdsTable(f.Type) {
				return true
			}
		}
	}
	return false
}

// publish ends the transaction of a state and makes the state the current one.
func (t *Target[M]) publish(s *state[M], l *life) {
	t.adopt(s, l)
	l.ended = true
	t.current.Store(s)
}

// adopt makes the tables of a state part of a transaction.
func (t *Target[M]) adopt(s *state[M], l *life) {
	s.notes.begin(l)
	for _, path := range t.tables {
		f := reflect.ValueOf(s.model).Elem().FieldByIndex(path)
		// By its address, because the field may be unexported.
		reflect.NewAt(f.Type(), f.Addr().UnsafePointer()).Interface().(table).begin(l)
	}
}

// enter registers a transaction, so that the model leads to its notes.
func (t *Target[M]) enter(s *state[M], write bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open[s.model] = transaction[M]{s, write}
}

func (t *Target[M]) leave(model *M) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, model)
}

// Volatile implements [projection.Volatile]: the model ends with the process.
func (t *Target[M]) Volatile() bool { return true }

// Update implements [projection.Target]. It waits until no other Update runs.
func (t *Target[M]) Update(ctx context.Context, do func(*M) error) error {
	select {
	case t.writing <- struct{}{}:
		defer func() { <-t.writing }()
	case <-ctx.Done():
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("update: %w: %w", store.ErrNotStored, err)
	}
	before := t.current.Load()
	s := &state[M]{model: t.clone(before.model), notes: before.notes}
	l := &life{}
	t.adopt(s, l)
	t.enter(s, true)
	defer func() {
		if !l.ended {
			l.ended = true
		}
		t.leave(s.model)
	}()
	if err := do(s.model); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("update: %w: %w", store.ErrNotStored, err)
	}
	l.ended = true // before other goroutines see the tables
	t.current.Store(s)
	return nil
}

// View implements [projection.Target]. It does not wait. do gets a copy of the model, whose tables
// cannot be changed.
func (t *Target[M]) View(ctx context.Context, do func(*M) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("view: %w", err)
	}
	now := t.current.Load()
	s := &state[M]{model: t.clone(now.model), notes: now.notes}
	t.enter(s, false)
	defer t.leave(s.model)
	if err := do(s.model); err != nil {
		return fmt.Errorf("view: %w", err)
	}
	return nil
}

// errEnded says that a model pointer belongs to no transaction that is in progress.
var errEnded = errors.New("the transaction has ended")

// tx returns the transaction of a model pointer.
func (t *Target[M]) tx(model *M) (transaction[M], error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	tx, ok := t.open[model]
	if !ok {
		return tx, errEnded
	}
	return tx, nil
}

// Note implements [projection.Target].
func (t *Target[M]) Note(_ context.Context, model *M, key string) ([]byte, error) {
	tx, err := t.tx(model)
	if err != nil {
		return nil, fmt.Errorf("read note %q: %w", key, err)
	}
	if v, ok := tx.state.notes.Get(key); ok {
		return []byte(v), nil
	}
	return nil, nil
}

// SetNote implements [projection.Target].
func (t *Target[M]) SetNote(_ context.Context, model *M, key string, value []byte) error {
	n := projection.Note{Key: key, Value: value}
	if err := n.Validate(); err != nil {
		return fmt.Errorf("set note: %w", err)
	}
	tx, err := t.tx(model)
	switch {
	case err != nil:
	case !tx.write:
		err = errors.New("a view stores nothing")
	case value == nil:
		tx.state.notes.Delete(key)
	default:
		tx.state.notes.Put(key, string(value))
	}
	if err != nil {
		return fmt.Errorf("set note %q: %w", key, err)
	}
	return nil
}

// Notes implements [projection.Target]. It yields the notes as they were at its beginning, so the
// caller may change notes during the iteration.
func (t *Target[M]) Notes(ctx context.Context, model *M, prefix string) iter.Seq2[projection.Note, error] {
	return func(yield func(projection.Note, error) bool) {
		tx, err := t.tx(model)
		if err != nil {
			yield(projection.Note{}, fmt.Errorf("read notes %q: %w", prefix, err))
			return
		}
		for key, value := range tx.state.notes.From(prefix) {
			if !strings.HasPrefix(key, prefix) {
				return
			}
			if err := ctx.Err(); err != nil {
				yield(projection.Note{}, fmt.Errorf("read notes %q: %w", prefix, err))
				return
			}
			if !yield(projection.Note{Key: key, Value: []byte(value)}, nil) {
				return
			}
		}
	}
}
