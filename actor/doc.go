// Package actor runs many small, independent pieces of state, each behind a
// mailbox of its own.
//
// An actor is a [Behavior] that handles one message at a time. [Spawn] starts
// one and returns a [Ref], typed by the messages that the actor understands, so
// that a wrong message does not compile. [Ref.Tell] sends without waiting, [Ask]
// waits for an answer, [Ref.TellAfter] sends later, [Ref.Signal] wakes without a
// message, [Ref.Stop] ends the actor. Several types of messages are an interface.
//
// An idle actor has no goroutine and no buffer: a million of them cost their
// state and about a hundred bytes each. A goroutine is started when there is
// something to do, or none at all: [Ask] and [Ref.Run] let an idle actor work
// on the goroutine of the caller.
//
// Actors form a tree. Below a [System] are two guardians, "user" for the actors
// of the program and "system" for what serves them; below these what was spawned
// with the [System], and below an actor what it has spawned with its [Context].
// An actor stops when its children have stopped. One that fails is supervised:
// by its own [Supervised] or [OnFailure], else by the [Strategy] of its parent,
// which may [Restart] it with a fresh behavior if [SpawnFrom] knows how to make
// one. A behavior learns of all this by optional abilities, such as [Started] and
// [ChildStopped], and of the end of any other actor by [Watch].
//
// A behavior that has something to wait for need not block: [AskThen] brings the
// answer of another actor as a message, [Pipe] the result of any work,
// [Context.SetTimer] a message later. These, and the [Context.Context] for calls of
// databases and the like, belong to the behavior and end with it. [AskFrom] waits,
// and tells of actors that wait for each other. A [Router] shares messages out to
// a group of actors and replaces those that stop.
//
// For tools there are an [Address] without a type, a walk through all actors
// ([System.Walk]), a stream of events ([Subscribe], [Listen]), and [Middleware].
// What is not used costs nothing. Package actortest helps to test actors.
//
// What the package promises:
//
//  1. At most one goroutine at a time works inside an actor, and what one turn
//     has written the next one sees.
//  2. Messages of one sender to one actor are handled in the order in which
//     they were sent, but for those that the actor itself puts aside by
//     [Context.Stash].
//  3. A message that was accepted (the call returned nil) is handled exactly
//     once, or is handed to [Closed] exactly once, or was dropped by the wish of
//     its actor ([DropOldest]). A restart keeps what is queued.
//  4. A mailbox accepts no more than its bound. Above it go only a [Terminated],
//     one for each watch; the message of a [Context.SetTimer], one for each key; a
//     result of [AskThen] or [Pipe], of which there are at most [AwaitedMax]; and
//     what comes back from a stash.
//  5. A panic, [Context.Fail] or [runtime.Goexit] in code of the user fails the
//     actor that it belongs to, never the process and never another actor: in a
//     behavior, its abilities and middleware, in a [Strategy], in the functions of
//     [Watch] and [Listen], in a logger. None of it is called under a lock, so one
//     that blocks holds up its own actor only: [System.Shutdown] stops the others
//     and returns when its context ends. One thing Go does not allow: Goexit on the
//     goroutine of a caller ([Ref.Run], [Ask], [Ref.Stop] and [Ref.StopIfIdle] of an
//     idle actor) ends that too, so an actor that may do this has [InlineNever].
//  6. An [Ask] ends: with the answer, with an error that says why there is
//     none, or with its context. Only an answer that somebody has promised to
//     give later ([Reply.Keep], [Context.Stash]) can be waited for without end.
//  7. A turn is bounded, so a busy actor does not starve the others.
//  8. All descendants of an actor have stopped before its behavior is given up.
//  9. A failure is decided about before the next message. What exceeds the
//     restarts of a [Strategy] stops that actor, and its parent is told.
//  10. What a behavior has begun ends with it: after a restart the fresh behavior
//     gets no message of a watch, a timer, a result or a receive timeout that it has
//     not begun itself.
package actor
