// Package wheel schedules calls for later: very many of them, most of which are
// stopped before they are due, as timeouts are.
//
// To schedule, reset or stop a timer costs the same whether ten or ten million
// wait, and takes no memory but the [Timer], which may lie in a larger struct.
//
// A [Wheel] turns in steps of [Resolution], measured on the monotonic clock. A
// timer is never early. It is late by less than a step, by what the scheduler of
// Go needs to start a goroutine, and by the calls before it. All calls of a
// wheel are made one after another by one goroutine, which exists only while
// something is due; between two of those moments a single timer of the runtime
// waits for the next, so a wheel with nothing to do does nothing. For the same
// reason virtual time passes: a wheel that is made in a bubble of
// testing/synctest works in it.
package wheel
