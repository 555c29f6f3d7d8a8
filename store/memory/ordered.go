package memory

import (
	"slices"
	"sort"
)

// blockMax bounds the elements in a block of an ordered set.
const blockMax = 256

// An ordered set keeps its elements sorted, in blocks of bounded size. Each block is a
// sorted slice. An insertion or removal moves only the elements of one block, and the list
// of blocks. No block is empty.
type ordered[T any] struct {
	compare func(a, b T) int
	blocks  [][]T
	length  int
}

// find returns the block of x and its index there, or the place where x would be inserted.
func (o *ordered[T]) find(x T) (block, at int, found bool) {
	block = sort.Search(len(o.blocks), func(i int) bool { return o.compare(o.blocks[i][0], x) > 0 })
	if block == 0 {
		return 0, 0, false // before all others
	}
	block--
	at, found = slices.BinarySearchFunc(o.blocks[block], x, o.compare)
	return block, at, found
}

// get returns the element that compares equal to x.
func (o *ordered[T]) get(x T) (y T, found bool) {
	block, at, found := o.find(x)
	if found {
		y = o.blocks[block][at]
	}
	return y, found
}

// put adds x, or replaces the element that compares equal to it.
func (o *ordered[T]) put(x T) {
	block, at, found := o.find(x)
	if found {
		o.blocks[block][at] = x
		return
	}
	o.length++
	if len(o.blocks) == 0 {
		o.blocks = append(o.blocks, nil)
	}
	b := slices.Insert(o.blocks[block], at, x)
	o.blocks[block] = b
	if len(b) > blockMax {
		// Elements mostly come in order, so the first part stays well filled.
		cut := blockMax * 3 / 4
		o.blocks = slices.Insert(o.blocks, block+1, slices.Clone(b[cut:]))
		clear(b[cut:])
		o.blocks[block] = b[:cut]
	}
}

// remove removes the element that compares equal to x, if there is one.
func (o *ordered[T]) remove(x T) {
	block, at, found := o.find(x)
	if !found {
		return
	}
	o.length--
	o.blocks[block] = slices.Delete(o.blocks[block], at, at+1)
	if len(o.blocks[block]) == 0 {
		o.blocks = slices.Delete(o.blocks, block, block+1)
	}
}

// above appends to dst the first elements above x, up to the capacity of dst.
func (o *ordered[T]) above(x T, dst []T) []T {
	block, at, found := o.find(x)
	if found {
		at++
	}
	for ; block < len(o.blocks) && len(dst) < cap(dst); block, at = block+1, 0 {
		b := o.blocks[block][at:]
		dst = append(dst, b[:min(len(b), cap(dst)-len(dst))]...)
	}
	return dst
}
