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

// A Memory is a [Target] that keeps a read model in memory. It keeps nothing
// beyond the process: a projection builds it anew from the log with every
// start, which is what a small model is quick at. A transaction is a pointer to
// a copy of the model, so handlers are plain functions on it.
//
// Reading waits for nobody: a View has the model as it was committed last,
// whatever an Update does meanwhile. Updates run one after the other.
//
// # Why the model is a struct of tables
//
// When a handler fails or panics half-way, the model must be what it was
// before. Nobody can take back what was done to ordinary maps and slices;
// copying all of the model before each transaction costs more the more there is
// in it. So a model holds its entries in a [Table], which shares with its copies
// all that does not change. Then to copy the model is to copy a struct, to roll
// back is to forget the copy, and to commit is to replace one pointer. A model
// that comes in another form, such as one protobuf message, is kept by
// [NewMemoryClone] at the price of the copies.
type Memory[M any] struct {
	clone   func(*M) *M
	tables  [][]int // where the tables are in M
	writing chan struct{}
	current atomic.Pointer[memoryState[M]]

	mu   sync.Mutex
	open map[*M]memoryTx[M]
}

// A memoryState is what a commit leaves. It is never changed.
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

// A table is what a Memory asks of the tables of a model.
type table interface {
	begin(l *life)
	check() error
}

// NewMemory returns a target that begins with a model: a struct of plain values
// and of [Table]s, nested as you like. It returns an error that names the field
// if there is anything in it that two copies would share, such as a map.
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

// NewMemoryClone returns a target that begins with a model of any form, and
// copies all of it by clone, such as proto.CloneOf, for each Update and each
// View. That is for small models. It panics if there is no model or no clone,
// and later if what clone returns is not another model.
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

// copyStruct copies a struct to an address that no other has, even if it is empty.
func copyStruct[M any](m *M) *M {
	c := &struct {
		model M
		_     byte
	}{model: *m}
	return &c.model
}

// inspect notes where the tables are in a model, and says what cannot be there.
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

// isTable tells a Table from a struct that one is embedded in.
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

// publish ends the life of a state's transaction and makes it the current one.
func (m *Memory[M]) publish(s *memoryState[M], l *life) {
	m.adopt(s, l)
	l.ended = true
	m.current.Store(s)
}

// adopt makes the tables of a state those of a transaction.
func (m *Memory[M]) adopt(s *memoryState[M], l *life) {
	s.notes.begin(l)
	for _, path := range m.tables {
		f := reflect.ValueOf(s.model).Elem().FieldByIndex(path)
		// By its address, because the field may be unexported.
		reflect.NewAt(f.Type(), f.Addr().UnsafePointer()).Interface().(table).begin(l)
	}
}

// enter makes a transaction known, so that its notes are found by its model.
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

// Volatile implements [Volatile]: the model is gone with the process.
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
	l.ended = true // before anybody else sees the tables
	m.current.Store(s)
	return nil
}

// View implements [Target]. It waits for nobody. Do gets a copy of the model,
// whose tables cannot be changed.
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

// errEnded says that a pointer is of no transaction that runs.
var errEnded = errors.New("the transaction has ended")

// tx returns the transaction that a pointer stands for.
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

// Notes implements [Target]. Notes may be changed while it yields; it yields
// them as they were when it began.
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
