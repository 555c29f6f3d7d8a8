// Package perduretest tests kinds without an engine, and engines against a
// world that fails.
//
// A test of a kind says what has happened, sends a command, and says what must
// come of it:
//
//	perduretest.Given(t, Books, &libraryv1.BookRegistered{Title: "Emma"}).
//		When(&libraryv1.LendBook{Borrower: "ada"}).
//		Then(&libraryv1.BookLent{Borrower: "ada"}).
//		When(&libraryv1.LendBook{Borrower: "bob"}).
//		ThenRefused(perdure.FailedPrecondition, "lent to ada")
//
// What a command leaves for after its commit is compared as well, see
// [Outcome.ThenSent], [Outcome.ThenEnqueuedTo], [Outcome.ThenScheduled] and
// [Outcome.ThenClaimed]. A scenario delivers none of it.
//
// The rules run in the very state machine that an engine runs them in, on
// records that are encoded and decoded as in a store. So a test fails on all
// that an engine would refuse: a command without a rule, an event without an
// Evolve rule, a message that cannot be encoded, a panic. It also fails on what
// an engine has no time to look for: a rule that changes what it must only
// read, and a rule that is not a pure function of its arguments.
//
// [Clock] is a clock that tests move by hand. [Faults] makes a store fail where
// and how a test wants it to.
package perduretest
