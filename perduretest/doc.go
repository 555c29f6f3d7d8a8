// Package perduretest tests kinds without an engine, and engines with stores that fail.
//
// A test of a kind gives the past events, sends a command, and states the expected result:
//
//	perduretest.Given(t, Books, &libraryv1.BookRegistered{Title: "Emma"}).
//		When(&libraryv1.LendBook{Borrower: "ada"}).
//		Then(&libraryv1.BookLent{Borrower: "ada"}).
//		When(&libraryv1.LendBook{Borrower: "bob"}).
//		ThenRefused(perdure.FailedPrecondition, "lent to ada")
//
// The messages, timers and claims of a command are checked as well, see [Outcome.ThenAfterCommit],
// [Outcome.ThenEnqueuedTo], [Outcome.ThenScheduled] and [Outcome.ThenClaimed]. A scenario
// delivers none of them.
//
// The rules run in the same state machine as in an engine, on records that are encoded and
// decoded as in a store. So a test fails on everything that an engine would refuse: a
// command without a rule, an event without an Evolve rule, a message that cannot be
// encoded, a panic. It also fails on faults that an engine has no time to look for: a rule
// that changes a value that it may only read, and a rule that is not a pure function of its
// arguments.
//
// [Clock] is a clock that tests move by hand. [Faults] makes a store fail where and how a
// test wants it to.
package perduretest
