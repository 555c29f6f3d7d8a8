package projection

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

	"github.com/perdure/perdure/store"
)

// A Memory is a [Target] that keeps a read model in memory. It keeps nothing beyond the process:
// with every start a projection builds the model from the log again, which is fast for a small
// model. A transaction is a pointer to a copy of the model, so handlers are plain functions on
// the model.
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
// struct, a rollback drops the copy, and a commit replaces one pointer. [NewMemoryClone] keeps a
// model of another form, such as one protobuf message, and pays for the copies.
type Memory[M any] struct {
	clone   func(*M) *M
	tables  [][]int // where the tables are in M
	writing chan struct{}
	current atomic.Pointer[memoryState[M]]

	mu   sync.Mutex
	open map[*M]memoryTx[M]
}

// A memoryState is the result of a commit. It never changes.
type memoryState[M any] struct {
	model *M
	notes Table[string, string]
}

// A memoryTx is a transaction in progress.
type memoryTx[M any] struct {
	state *memoryState[M]
	write bool
}

var _ Target[*struct{}] = (*Memory[struct{}])(nil)

// table is the interface that a Memory needs from the tables of a model.
type table interface {
	begin(l *life)
	check() error
}

// NewMemory returns a target that begins with a model: a struct of plain values and of [Table]s,
// which may be nested. If two copies of the model would share a field, such as a map, NewMemory
// returns an error that names the field.
func NewMemory[M any](model M) (*Memory[M], error) {
	m := newMemory[M]()
	err := m.inspect(reflect.TypeFor[M](), nil, nil)
	if err != nil {
		return nil, fmt.Errorf("memory target for %v: %w", reflect.TypeFor[M](), err)
	}
	m.clone = copyStruct[M]
	m.publish(&memoryState[M]{model: m.clone(&model)}, &life{})
	return m, nil
}

// NewMemoryClone returns a target that begins with a model of any form. It copies the whole model
// by clone, such as proto.CloneOf, for each Update and each View. Use it for small models. It
// panics if model or clone is nil, and an Update or View panics if clone does not return another
// model.
func NewMemoryClone[M any](model *M, clone func(*M) *M) *Memory[M] {
	if model == nil || clone == nil {
		panic("projection: NewMemoryClone without a model or without a function to copy it")
	}
	m := newMemory[M]()
	m.clone = func(m *M) *M {
		c := clone(m)
		if c == nil || c == m {
			panic("projection: the function that copies the model of a memory target does not")
		}
		return c
	}
	m.publish(&memoryState[M]{model: m.clone(model)}, &life{})
	return m
}

func newMemory[M any]() *Memory[M] {
	return &Memory[M]{writing: make(chan struct{}, 1), open: make(map[*M]memoryTx[M])}
}

// copyStruct copies a struct to an address that no other copy has, even if the struct is empty.
func copyStruct[M any](m *M) *M {
	c := &struct {
		model M
		_     byte
	}{model: *m}
	return &c.model
}

// inspect finds the tables of a model, and returns an error for fields that a model cannot have.
func (m *Memory[M]) inspect(t reflect.Type, path []int, names []string) error {
	if isTable(t) {
		if err := reflect.New(t).Interface().(table).check(); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(names, "."), err)
		}
		m.tables = append(m.tables, path)
		return nil
	}
	why := ""
	switch {
	case t.Kind() == reflect.Array && holdsTable(t.Elem()):
		why = "a table in an array"
	case t.Kind() != reflect.Struct || shared(t) == "":
		why = shared(t)
	default:
		for f := range t.Fields() {
			if err := m.inspect(f.Type, append(slices.Clip(path), f.Index[0]), append(slices.Clip(names), f.Name)); err != nil {
				return err
			}
		}
	}
	if why != "" {
		return fmt.Errorf("%w: %s: %s; use a projection.Table, or NewMemoryClone", store.ErrInvalid, strings.Join(names, "."), why)
	}
	return nil
}

// isTable distinguishes a Table from a struct that embeds one.
func isTable(t reflect.Type) bool {
	return t.PkgPath() == reflect.TypeFor[Note]().PkgPath() && strings.HasPrefix(t.Name(), "Table[")
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
func (m *Memory[M]) publish(s *memoryState[M], l *life) {
	m.adopt(s, l)
	l.ended = true
	m.current.Store(s)
}

// adopt makes the tables of a state part of a transaction.
func (m *Memory[M]) adopt(s *memoryState[M], l *life) {
	s.notes.begin(l)
	for _, path := range m.tables {
		f := reflect.ValueOf(s.model).Elem().FieldByIndex(path)
		// By its address, because the field may be unexported.
		reflect.NewAt(f.Type(), f.Addr().UnsafePointer()).Interface().(table).begin(l)
	}
}

// enter registers a transaction, so that the model leads to its notes.
func (m *Memory[M]) enter(s *memoryState[M], write bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open[s.model] = memoryTx[M]{s, write}
}

func (m *Memory[M]) leave(model *M) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.open, model)
}

// Volatile implements [Volatile]: the model ends with the process.
func (m *Memory[M]) Volatile() bool { return true }

// Update implements [Target]. It waits until no other Update runs.
func (m *Memory[M]) Update(ctx context.Context, do func(*M) error) error {
	select {
	case m.writing <- struct{}{}:
		defer func() { <-m.writing }()
	case <-ctx.Done():
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("update: %w: %w", store.ErrNotStored, err)
	}
	before := m.current.Load()
	s := &memoryState[M]{model: m.clone(before.model), notes: before.notes}
	l := &life{}
	m.adopt(s, l)
	m.enter(s, true)
	defer func() {
		if !l.ended {
			l.ended = true
		}
		m.leave(s.model)
	}()
	if err := do(s.model); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("update: %w: %w", store.ErrNotStored, err)
	}
	l.ended = true // before other goroutines see the tables
	m.current.Store(s)
	return nil
}

// View implements [Target]. It does not wait. do gets a copy of the model, whose tables cannot be
// changed.
func (m *Memory[M]) View(ctx context.Context, do func(*M) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("view: %w", err)
	}
	now := m.current.Load()
	s := &memoryState[M]{model: m.clone(now.model), notes: now.notes}
	m.enter(s, false)
	defer m.leave(s.model)
	if err := do(s.model); err != nil {
		return fmt.Errorf("view: %w", err)
	}
	return nil
}

// errEnded says that a model pointer belongs to no transaction that is in progress.
var errEnded = errors.New("the transaction has ended")

// tx returns the transaction of a model pointer.
func (m *Memory[M]) tx(model *M) (memoryTx[M], error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	tx, ok := m.open[model]
	if !ok {
		return tx, errEnded
	}
	return tx, nil
}

// Note implements [Target].
func (m *Memory[M]) Note(_ context.Context, model *M, key string) ([]byte, error) {
	tx, err := m.tx(model)
	if err != nil {
		return nil, fmt.Errorf("note %q: %w", key, err)
	}
	if v, ok := tx.state.notes.Get(key); ok {
		return []byte(v), nil
	}
	return nil, nil
}

// SetNote implements [Target].
func (m *Memory[M]) SetNote(_ context.Context, model *M, key string, value []byte) error {
	n := Note{Key: key, Value: value}
	if err := n.Validate(); err != nil {
		return fmt.Errorf("set note: %w", err)
	}
	tx, err := m.tx(model)
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

// Notes implements [Target]. It yields the notes as they were at its beginning, so the caller may
// change notes during the iteration.
func (m *Memory[M]) Notes(ctx context.Context, model *M, prefix string) iter.Seq2[Note, error] {
	return func(yield func(Note, error) bool) {
		tx, err := m.tx(model)
		if err != nil {
			yield(Note{}, fmt.Errorf("notes %q: %w", prefix, err))
			return
		}
		for key, value := range tx.state.notes.From(prefix) {
			if !strings.HasPrefix(key, prefix) {
				return
			}
			if err := ctx.Err(); err != nil {
				yield(Note{}, fmt.Errorf("notes %q: %w", prefix, err))
				return
			}
			if !yield(Note{Key: key, Value: []byte(value)}, nil) {
				return
			}
		}
	}
}
