package memorytarget

import "slices"

// mine returns the node itself if e made it, else a copy that belongs to e.
func (n *node[K, V]) mine(e *edit) *node[K, V] {
	if n.edit == e {
		return n
	}
	c := &node[K, V]{edit: e}
	c.keys = append(make([]K, 0, itemsMax), n.keys...)
	c.values = append(make([]V, 0, itemsMax), n.values...)
	if n.kids != nil {
		c.kids = append(make([]*node[K, V], 0, itemsMax+1), n.kids...)
	}
	return c
}

// kid returns a kid that e may change.
func (n *node[K, V]) kid(i int, e *edit) *node[K, V] {
	n.kids[i] = n.kids[i].mine(e)
	return n.kids[i]
}

// put sets a value below n, which has room for an item, and reports whether it is new.
func (n *node[K, V]) put(k K, v V, e *edit) bool {
	for {
		i, found := slices.BinarySearch(n.keys, k)
		switch {
		case found:
			n.values[i] = v
			return false
		case n.kids == nil:
			n.keys = slices.Insert(n.keys, i, k)
			n.values = slices.Insert(n.values, i, v)
			return true
		case len(n.kids[i].keys) == itemsMax:
			n.split(i, e) // and look again
		default:
			n = n.kid(i, e)
		}
	}
}

// split divides a full kid into two; the item between them moves to n.
func (n *node[K, V]) split(i int, e *edit) {
	left := n.kid(i, e)
	right := &node[K, V]{edit: e}
	right.keys = append(make([]K, 0, itemsMax), left.keys[itemsMin+1:]...)
	right.values = append(make([]V, 0, itemsMax), left.values[itemsMin+1:]...)
	if left.kids != nil {
		right.kids = append(make([]*node[K, V], 0, itemsMax+1), left.kids[itemsMin+1:]...)
		clear(left.kids[itemsMin+1:])
		left.kids = left.kids[:itemsMin+1]
	}
	n.keys = slices.Insert(n.keys, i, left.keys[itemsMin])
	n.values = slices.Insert(n.values, i, left.values[itemsMin])
	n.kids = slices.Insert(n.kids, i+1, right)
	clear(left.keys[itemsMin:])
	clear(left.values[itemsMin:])
	left.keys, left.values = left.keys[:itemsMin], left.values[:itemsMin]
}

// remove removes the item of k, which is below n. Unless n is the root, n has more than itemsMin
// items.
func (n *node[K, V]) remove(k K, e *edit) {
	for {
		i, found := slices.BinarySearch(n.keys, k)
		switch {
		case n.kids == nil:
			n.keys = slices.Delete(n.keys, i, i+1)
			n.values = slices.Delete(n.values, i, i+1)
			return
		case len(n.kids[i].keys) <= itemsMin:
			n.fill(i, e) // and look again
		case found:
			n.keys[i], n.values[i] = n.kid(i, e).removeLast(e)
			return
		default:
			n = n.kid(i, e)
		}
	}
}

// removeLast removes the last item below n, which has more than itemsMin items.
func (n *node[K, V]) removeLast(e *edit) (K, V) {
	for n.kids != nil {
		i := len(n.kids) - 1
		if len(n.kids[i].keys) <= itemsMin {
			n.fill(i, e)
			continue
		}
		n = n.kid(i, e)
	}
	i := len(n.keys) - 1
	k, v := n.keys[i], n.values[i]
	n.keys = slices.Delete(n.keys, i, i+1)
	n.values = slices.Delete(n.values, i, i+1)
	return k, v
}

// fill gives a kid that has only itemsMin items one more: it moves an item from a neighbour with
// more items, or merges the kid with a neighbour.
func (n *node[K, V]) fill(i int, e *edit) {
	switch {
	case i > 0 && len(n.kids[i-1].keys) > itemsMin:
		from, to := n.kid(i-1, e), n.kid(i, e)
		last := len(from.keys) - 1
		to.keys = slices.Insert(to.keys, 0, n.keys[i-1])
		to.values = slices.Insert(to.values, 0, n.values[i-1])
		n.keys[i-1], n.values[i-1] = from.keys[last], from.values[last]
		from.keys = slices.Delete(from.keys, last, last+1)
		from.values = slices.Delete(from.values, last, last+1)
		if from.kids != nil {
			to.kids = slices.Insert(to.kids, 0, from.kids[last+1])
			from.kids = slices.Delete(from.kids, last+1, last+2)
		}
	case i < len(n.keys) && len(n.kids[i+1].keys) > itemsMin:
		from, to := n.kid(i+1, e), n.kid(i, e)
		to.keys = append(to.keys, n.keys[i])
		to.values = append(to.values, n.values[i])
		n.keys[i], n.values[i] = from.keys[0], from.values[0]
		from.keys = slices.Delete(from.keys, 0, 1)
		from.values = slices.Delete(from.values, 0, 1)
		if from.kids != nil {
			to.kids = append(to.kids, from.kids[0])
			from.kids = slices.Delete(from.kids, 0, 1)
		}
	default:
		i = min(i, len(n.keys)-1)
		to, from := n.kid(i, e), n.kids[i+1]
		to.keys = append(append(to.keys, n.keys[i]), from.keys...)
		to.values = append(append(to.values, n.values[i]), from.values...)
		to.kids = append(to.kids, from.kids...)
		n.keys = slices.Delete(n.keys, i, i+1)
		n.values = slices.Delete(n.values, i, i+1)
		n.kids = slices.Delete(n.kids, i+1, i+2)
	}
}

// ascend yields the items from a key on, or all of them, until yield returns false.
func (n *node[K, V]) ascend(from *K, yield func(K, V) bool) bool {
	if n == nil {
		return true
	}
	i := 0
	if from != nil {
		var found bool
		if i, found = slices.BinarySearch(n.keys, *from); found {
			from = nil
			if !yield(n.keys[i], n.values[i]) {
				return false
			}
			i++
		}
	}
	for ; i <= len(n.keys); i++ {
		if n.kids != nil && !n.kids[i].ascend(from, yield) {
			return false
		}
		from = nil
		if i < len(n.keys) && !yield(n.keys[i], n.values[i]) {
			return false
		}
	}
	return true
}

// descend yields all items backward, until yield returns false.
func (n *node[K, V]) descend(yield func(K, V) bool) bool {
	if n == nil {
		return true
	}
	for i := len(n.keys); i >= 0; i-- {
		if i < len(n.keys) && !yield(n.keys[i], n.values[i]) {
			return false
		}
		if n.kids != nil && !n.kids[i].descend(yield) {
			return false
		}
	}
	return true
}
