package ledger

import (
	"cmp"
	"slices"
	"time"
)

// An action is what an operation does to a book.
type action uint8

const (
	actRegister action = iota
	actLend
	actReturn
)

// An operation is one change of a book: an action, and the index of its loan.
type operation struct {
	loan   int32
	action action
}

// A shelf holds the operations of one book, in order.
type shelf struct {
	book       string
	operations []operation
}

// shelves sorts the operations of a ledger by book. Within a book they are in the order of
// the desk: by time; at one time the returns of earlier loans come before lendings, and a
// return at the time of its own lending comes right after that lending; otherwise by row. A
// book is registered at its first appearance.
//
// The book with the most operations comes first. The operations of a book run one after
// another, so a long book that begins late would delay the end.
func shelves(loans []Loan) []shelf {
	index := make(map[string]int)
	var all []shelf
	for i := range loans {
		l := &loans[i]
		at, ok := index[l.Book]
		if !ok {
			at = len(all)
			index[l.Book] = at
			all = append(all, shelf{book: l.Book})
		}
		s := &all[at]
		s.operations = append(s.operations, operation{int32(i), actLend})
		if l.Returned {
			s.operations = append(s.operations, operation{int32(i), actReturn})
		}
	}
	for i := range all {
		s := &all[i]
		slices.SortFunc(s.operations, func(a, b operation) int { return compare(loans, a, b) })
		s.operations = slices.Insert(s.operations, 0, operation{s.operations[0].loan, actRegister})
	}
	slices.SortFunc(all, func(a, b shelf) int {
		return cmp.Or(cmp.Compare(len(b.operations), len(a.operations)), cmp.Compare(a.book, b.book))
	})
	return all
}

// compare orders two operations on the same book.
func compare(loans []Loan, a, b operation) int {
	timeA, turnA := a.turn(loans)
	timeB, turnB := b.turn(loans)
	return cmp.Or(timeA.Compare(timeB), cmp.Compare(turnA, turnB),
		cmp.Compare(a.loan, b.loan), cmp.Compare(a.action, b.action))
}

// turn returns the time of an operation, and its rank among the operations at that time.
func (o operation) turn(loans []Loan) (at time.Time, turn int) {
	l := &loans[o.loan]
	if o.action != actReturn {
		return l.LentOn, 1
	}
	if l.ReturnedOn.Equal(l.LentOn) {
		return l.ReturnedOn, 1
	}
	return l.ReturnedOn, 0
}
