// Package actortest helps to test actors.
//
// A [Probe] is an actor that keeps what it gets, for a test to look at. A
// [Recording] does the same for events. Both wait a bounded time and fail the
// test with what they waited for. A [Scheduler] decides which actor works next,
// so that a test runs in the same order each time, or in another one for each
// seed. What depends on time is tested in a bubble of testing/synctest, where
// nothing of this package takes longer than it must.
package actortest
