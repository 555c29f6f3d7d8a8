// Package wheel schedules calls for later. It is made for very many timers of which most
// are stopped before they are due, such as timeouts.
//
// To schedule, reset or stop a timer costs the same with ten and with ten million waiting
// timers. It takes no memory but the [Timer] itself, which may be part of a larger struct.
//
// A [Wheel] turns in steps of [Resolution], measured on the monotonic clock. A timer is
// never early. It is late by less than a step, plus the time that the Go scheduler takes to
// start a goroutine, plus the time of the calls before it. One goroutine makes all calls of
// a wheel, one after another, and exists only while a timer is due. Between those times a
// single timer of the runtime waits for the next step with a timer, so an idle wheel does
// nothing. A wheel that is made in a bubble of testing/synctest follows the virtual time of
// the bubble.
package wheel
