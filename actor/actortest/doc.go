// Package actortest helps to test actors.
//
// A [Probe] is an actor that keeps its messages for the test. A [Recording] keeps events
// for the test. Both wait a bounded time, and fail the test with a text that says what they
// waited for. A [Scheduler] decides which actor works next, so that a test runs in the same
// order each time, or in another order for each seed. Code that depends on time is tested
// in a bubble of testing/synctest, where the waits of this package take no real time.
package actortest
