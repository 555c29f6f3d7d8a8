package ledger

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/examples/library/library"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
	"github.com/perdure/perdure/store"
)

// An action is what an operation does to a book.
type action uint8

const (
	actRegister action = iota
	actLend
	actReturn
)

// keys are the suffixes of the idempotency keys, which begin with the id of the loan.
var keys = [...]string{actRegister: "/register", actLend: "/lend", actReturn: "/return"}

// An operation is one change of a book: an action, and its loan.
type operation struct {
	loan   *Loan
	action action
}

// rank returns the time of an operation and its place among the operations at that time. The
// returns of earlier loans come before lendings. A return at the time of its own lending comes
// right after that lending.
func (o operation) rank() (at time.Time, place int) {
	switch {
	case o.action != actReturn:
		return o.loan.LentOn, 1
	case o.loan.ReturnedOn.Equal(o.loan.LentOn):
		return o.loan.ReturnedOn, 1
	}
	return o.loan.ReturnedOn, 0
}

// compare orders the operations on one book: by rank, then by row; a loan is lent before it ends.
func compare(a, b operation) int {
	atA, placeA := a.rank()
	atB, placeB := b.rank()
	return cmp.Or(atA.Compare(atB), placeA-placeB, a.loan.Line-b.loan.Line, cmp.Compare(a.action, b.action))
}

// command makes the command of an operation. A loan that ends within the ledger gets no reminder,
// even if it was due long before.
func (o operation) command(expected time.Duration) proto.Message {
	l := o.loan
	switch o.action {
	case actRegister:
		return &libraryv1.RegisterBook{Title: l.Title}
	case actReturn:
		return &libraryv1.ReturnBook{LoanId: l.ID, Date: timestamppb.New(l.ReturnedOn), By: l.Borrower}
	}
	c := &libraryv1.LendBook{LoanId: l.ID, Borrower: l.Borrower, Date: timestamppb.New(l.LentOn), Ended: l.Returned}
	if expected != 0 {
		c.Expected = durationpb.New(expected)
	}
	return c
}

// A page is the part of a ledger about one book: its operations in order, and a rehearsal of them,
// which is their result by the rules alone.
//
//  1. state is the book after the first next operations, by the rules. version is the number of
//     their events, refusals has those that the book refuses.
//  2. A command has an idempotency key of its own, and the condition that the book is at the
//     version of the rehearsal before it.
//  3. The page waits for the answer to the last command of a window only. An answer at the version
//     of the rehearsal proves that the commands before it have stored as many events as rehearsed.
//     The comparison of the states at the end proves that they are the same events, and not those
//     of another import into a shared store.
//
// After an error it is unknown how many of the commands are stored. Then the rehearsal begins again
// and follows the log, see catchUp.
type page struct {
	engine     *perdure.Engine
	o          *Options
	ref        perdure.Ref[*libraryv1.Book]
	operations []operation
	reported   int // commands that were reported to Options.Done

	state          *libraryv1.Book // nil before the first operation and after the last
	version        store.Version
	next           int
	lent, returned int
	refusals       []Refusal
	out            bool // the book is out at the end
}

// pages turns a ledger to pages. The page with the most operations comes first: its commands run
// one after another, so if it began late, the end would wait for it.
func pages(engine *perdure.Engine, l *Ledger, o *Options) []*page {
	byBook := make(map[string]*page)
	var all []*page
	for i := range l.Loans {
		loan := &l.Loans[i]
		p := byBook[loan.Book]
		if p == nil {
			p = &page{engine: engine, o: o, ref: library.Books.Ref(engine, loan.Book)}
			byBook[loan.Book] = p
			all = append(all, p)
		}
		p.operations = append(p.operations, operation{loan, actLend})
		if loan.Returned {
			p.operations = append(p.operations, operation{loan, actReturn})
		}
	}
	for _, p := range all {
		slices.SortFunc(p.operations, compare)
		p.operations = slices.Insert(p.operations, 0, operation{p.operations[0].loan, actRegister})
	}
	slices.SortStableFunc(all, func(a, b *page) int { return len(b.operations) - len(a.operations) })
	return all
}

// A step is a rehearsed operation.
type step struct {
	operation
	command proto.Message
	version store.Version // version of the book before the operation
	events  []proto.Message
	refusal error
}

// rehearse runs the rules for the next operation.
func (p *page) rehearse(ctx context.Context) step {
	if p.state == nil {
		p.state = new(libraryv1.Book)
	}
	op := p.operations[p.next]
	s := step{operation: op, command: op.command(p.o.Expected), version: p.version}
	s.events, s.refusal = library.Rehearse(ctx, p.state, s.command)
	p.next++
	p.version += store.Version(len(s.events))
	switch {
	case s.refusal != nil:
		p.refusals = append(p.refusals, Refusal{op.loan, op.action == actReturn, s.refusal})
	case op.action == actLend:
		p.lent++
	case op.action == actReturn:
		p.returned++
	}
	return s
}

// catchUp rehearses the operations whose events are in the log.
func (p *page) catchUp(ctx context.Context) error {
	p.state, p.version, p.next, p.lent, p.returned, p.refusals = nil, 0, 0, 0, 0, nil
	var events []proto.Message // of the rehearsal, not yet found in the log
	for stored, err := range p.engine.Store().Read(ctx, p.ref.Key(), 0) {
		if err != nil {
			return fmt.Errorf("%v: %w: %w", p.ref.Key(), perdure.ErrStore, err)
		}
		for len(events) == 0 && p.next < len(p.operations) {
			events = p.rehearse(ctx).events
		}
		if len(events) == 0 {
			return p.mismatch(stored.Type, stored.Version, "no more")
		}
		got := events[0].ProtoReflect().New().Interface()
		if stored.Type != string(proto.MessageName(got)) || proto.Unmarshal(stored.Payload, got) != nil || !proto.Equal(got, events[0]) {
			return p.mismatch(stored.Type, stored.Version, describe(events[0]))
		}
		events = events[1:]
	}
	return nil
}

// send sends the operations that are not in the log yet, in windows, and compares the book with the
// rehearsal in the end.
func (p *page) send(ctx context.Context, size func() int) error {
	lost := false // it is unknown how many commands are stored
	return p.retry(ctx, func(ctx context.Context) error {
		if lost {
			if err := p.catchUp(ctx); err != nil {
				return err
			}
		}
		lost = true
		for p.next < len(p.operations) {
			if err := p.window(ctx, size()); err != nil {
				return err
			}
			p.report(false)
		}
		var receipt perdure.Receipt
		book, err := p.ref.State(ctx, perdure.WithReceipt(&receipt))
		if err == nil && (receipt.Version != p.version || !proto.Equal(book, p.state)) {
			err = p.mismatch(describe(book), receipt.Version, fmt.Sprintf("%s at version %d", describe(p.state), p.version))
		}
		if err == nil {
			p.state, p.out = nil, book.GetLoan() != nil
		}
		return err
	})
}

// window sends up to size commands and waits for the last of them.
func (p *page) window(ctx context.Context, size int) error {
	for n := 1; ; n++ {
		s := p.rehearse(ctx)
		options := []perdure.CallOption{
			perdure.WithIdempotencyKey(s.loan.ID + keys[s.action]),
			perdure.IfVersion(s.version),
			perdure.WithMetadata(store.Metadata{CorrelationID: s.loan.ID, Values: map[string]string{"ledger": p.o.Source, "line": strconv.Itoa(s.loan.Line)}}),
		}
		if n < size && p.next < len(p.operations) {
			if err := p.ref.Tell(ctx, s.command, options...); err != nil {
				return err
			}
			continue
		}
		receipt, err := p.ref.Do(ctx, s.command, options...)
		want, refused := library.ReasonOf(s.refusal)
		got, refuses := library.ReasonOf(err)
		if err != nil && !refuses {
			return err
		}
		if refused != refuses || want != got || err == nil && receipt.Version != p.version {
			return fmt.Errorf("line %d: %v answers otherwise than by its rules: version %d, %w; want version %d, %w",
				s.loan.Line, p.ref.Key(), receipt.Version, err, p.version, s.refusal)
		}
		return nil
	}
}

// report reports the commands that have become durable.
func (p *page) report(earlier bool) {
	if p.next > p.reported {
		p.o.Done(p.next-p.reported, earlier)
		p.reported = p.next
	}
}

// mismatch returns the error that the log has records of the book that do not follow from the
// ledger.
func (p *page) mismatch(stored string, version store.Version, want string) error {
	return fmt.Errorf("%v: the log is not of this ledger: it holds %s at version %d; the ledger makes %s (import it into another log)",
		p.ref.Key(), stored, version, want)
}

// describe formats a message on one line.
func describe(m proto.Message) string {
	return fmt.Sprintf("%s{%s}", m.ProtoReflect().Descriptor().Name(), prototext.MarshalOptions{}.Format(m))
}
