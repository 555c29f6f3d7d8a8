// Package actor runs many small, independent pieces of state, each behind a
// mailbox of its own.
//
// An actor is a [Behavior] that handles one message at a time. [Spawn] starts
// one on a [System] and returns a [Ref], typed by the messages that the actor
// understands, so that a wrong message does not compile. [Ref.Tell] sends
// without waiting, [Ask] waits for an answer, [Ref.Signal] wakes without a
// message, [Ref.Stop] ends the actor.
//
// An idle actor has no goroutine and no buffer: a million of them cost their
// state and about a hundred bytes each. A goroutine is started when there is
// something to do, or none at all: [Ask] and [Ref.Run] let an idle actor work
// on the goroutine of the caller.
//
// What the package promises:
//
//  1. At most one goroutine at a time works inside an actor, and what one turn
//     has written the next one sees.
//  2. Messages of one sender to one actor are handled in the order in which
//     they were sent.
//  3. A message that was accepted (the call returned nil) is handled exactly
//     once, or is handed to [Closed] exactly once.
//  4. A mailbox never holds more than its bound.
//  5. A panic or [runtime.Goexit] in a behavior fails that actor only. One
//     thing Go does not allow: Goexit on the goroutine of a caller ([Ref.Run],
//     [Ask]) ends that too, so an actor that may do this has [InlineNever].
//  6. An [Ask] ends: with the answer, with an error that says why there is
//     none, or with its context. Only an answer that somebody has promised to
//     give later ([Reply.Keep]) can be waited for without end.
//  7. A turn is bounded, so a busy actor does not starve the others.
package actor
