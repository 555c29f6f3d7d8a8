package memorytarget

import (
	"cmp"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
)

// A Table is an ordered map for the model of a [Target]. A copy of a Table is a snapshot that
// costs nothing. The zero Table is empty. A Table also works outside of a Target, for example in
// a test of a handler, but each change costs more there.
//
// The caller and the table never share a value, because a value that is changed in place would
// change in all snapshots. So V is one of these types; for any other type [New] returns an
// error, and Put of a Table outside of a Target panics:
//
//   - a plain value: a number, a boolean, a string, a [time.Time], or an array
//     or a struct of plain values;
//   - a [proto.Message];
//   - a type with a method Clone that returns a V.
//
// The table copies messages and types with Clone when they are put and when they are read. To
// change one: get it, change it, put it.
//
// Within Update one goroutine uses a Table. Within View, and as long as no goroutine changes it,
// many goroutines may read it.
//
// # How it works
//
// A Table is a B-tree. Its nodes never change once two tables may share them:
//
//   - A node is changed only by the edit that made it, if that is the current edit of the table.
//     Any other node on the path from the root is copied first.
//   - An edit belongs to one transaction. It ends when an iteration begins, so that neither a
//     snapshot nor an iteration sees a change.
//   - All nodes but the root have at least itemsMin items.
type Table[K cmp.Ordered, V any] struct {
	root   *node[K, V]
	length int
	life   *life // the transaction; nil for a table outside of a Target
	edit   *edit // nil if all nodes may be shared
	copies copies
}

// Bounds of the items of a node.
const (
	itemsMax = 31
	itemsMin = itemsMax / 2
)

type node[K cmp.Ordered, V any] struct {
	edit   *edit
	keys   []K
	values []V
	kids   []*node[K, V] // one more than keys, or none in a leaf
}

// A life is the lifetime of a transaction.
type life struct{ ended bool }

// An edit is an identity. It is not empty, so that no two edits have the same address.
type edit struct{ _ byte }

// copies says how values are copied.
type copies uint8

const (
	copyUnknown copies = iota
	copyPlain
	copyMessage
	copyClone
)

// Len returns the number of entries.
func (t *Table[K, V]) Len() int { return t.length }

// Get returns the value under k, and whether there is one.
func (t *Table[K, V]) Get(k K) (V, bool) {
	for n := t.root; n != nil; {
		i, found := slices.BinarySearch(n.keys, k)
		if found {
			return t.own(n.values[i]), true
		}
		if n.kids == nil {
			break
		}
		n = n.kids[i]
	}
	var none V
	return none, false
}

// Put sets the value under k. It panics in a View and after the transaction.
func (t *Table[K, V]) Put(k K, v V) {
	e := t.change()
	if t.copies == copyUnknown {
		how, err := howToCopy(reflect.TypeFor[V]())
		if err != nil {
			panic(fmt.Sprintf("memorytarget: %T: %v", *t, err))
		}
		t.copies = how
	}
	v = t.own(v)
	if t.root == nil {
		t.root = &node[K, V]{edit: e}
	}
	root := t.root.mine(e)
	if len(root.keys) == itemsMax {
		root = &node[K, V]{edit: e, kids: []*node[K, V]{root}}
		root.split(0, e)
	}
	if root.put(k, v, e) {
		t.length++
	}
	t.root = root
}

// Delete removes the entry under k and reports whether there was one. It panics
// in a View and after the transaction.
func (t *Table[K, V]) Delete(k K) bool {
	e := t.change()
	if !t.has(k) {
		return false
	}
	root := t.root.mine(e)
	root.remove(k, e)
	if len(root.keys) == 0 {
		if root.kids == nil {
			root = nil
		} else {
			root = root.kids[0]
		}
	}
	t.root = root
	t.length--
	return true
}

// All yields the entries in the order of their keys, as they are when the iteration begins. The
// table may change during the iteration.
func (t *Table[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		t.share()
		t.root.ascend(nil, t.owned(yield))
	}
}

// From is like All, but begins at the first key that is k or above.
func (t *Table[K, V]) From(k K) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		t.share()
		t.root.ascend(&k, t.owned(yield))
	}
}

// Backward is like All, in the reverse order.
func (t *Table[K, V]) Backward() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		t.share()
		t.root.descend(t.owned(yield))
	}
}

func (t *Table[K, V]) owned(yield func(K, V) bool) func(K, V) bool {
	if t.copies == copyPlain {
		return yield
	}
	return func(k K, v V) bool { return yield(k, t.own(v)) }
}

func (t *Table[K, V]) has(k K) bool {
	for n := t.root; n != nil; {
		i, found := slices.BinarySearch(n.keys, k)
		if found {
			return true
		}
		if n.kids == nil {
			break
		}
		n = n.kids[i]
	}
	return false
}

// begin makes the table part of a transaction.
func (t *Table[K, V]) begin(l *life) { t.life, t.edit = l, nil }

// change returns the edit for a change.
func (t *Table[K, V]) change() *edit {
	switch {
	case t.life == nil:
		return new(edit) // for this change alone: a copy of the table does not end the edit
	case t.life.ended:
		panic("memorytarget: a table is changed outside of Update")
	case t.edit == nil:
		t.edit = new(edit)
	}
	return t.edit
}

// share ends the edit, because an iteration begins: from here on a change copies the nodes first.
func (t *Table[K, V]) share() {
	if t.edit != nil && !t.life.ended {
		t.edit = nil
	}
}

// own returns a copy of a value, which no other table or caller shares.
func (t *Table[K, V]) own(v V) V {
	switch t.copies {
	case copyMessage:
		if m, ok := any(v).(proto.Message); ok {
			return proto.Clone(m).(V)
		}
	case copyClone:
		return any(v).(interface{ Clone() V }).Clone()
	}
	return v
}

// check returns an error if the table cannot keep values of its type.
func (t *Table[K, V]) check() error {
	_, err := howToCopy(reflect.TypeFor[V]())
	return err
}

func howToCopy(t reflect.Type) (copies, error) {
	if t.Implements(reflect.TypeFor[proto.Message]()) {
		return copyMessage, nil
	}
	if m, ok := t.MethodByName("Clone"); ok && t.Kind() != reflect.Interface && m.Type.NumIn() == 1 && m.Type.NumOut() == 1 && m.Type.Out(0) == t {
		return copyClone, nil
	}
	if why := shared(t); why != "" {
		return copyUnknown, fmt.Errorf("values of type %v cannot be kept: %s (use plain values, a proto.Message, or a type with a method Clone() %[1]v)", t, why)
	}
	return copyPlain, nil
}

// shared names the part of a type that two copies of a value would share, or returns "".
func shared(t reflect.Type) string {
	if t == reflect.TypeFor[time.Time]() {
		return "" // it points to its zone, which never changes
	}
	switch t.Kind() {
	case reflect.Array:
		return shared(t.Elem())
	case reflect.Struct:
		for f := range t.Fields() {
			if why := shared(f.Type); why != "" {
				return "field " + f.Name + ": " + why
			}
		}
	case reflect.Map, reflect.Slice, reflect.Pointer, reflect.Interface, reflect.Chan, reflect.Func, reflect.UnsafePointer:
		return "two copies of a " + t.Kind().String() + " share the memory that it refers to"
	}
	return ""
}
