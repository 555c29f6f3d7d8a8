// Package actor runs many small, independent pieces of state, each behind a
// mailbox of its own.
//
// An actor is a [Behavior] that handles one message at a time. [Spawn] starts one and
// returns a [Ref], typed by the messages that the actor understands, so that a wrong
// message does not compile. [Ref.Tell] sends without waiting, [Ask] waits for an
// answer, [Ref.TellAfter] sends later, [Ref.Signal] wakes without a message, [Ref.Stop]
// ends the actor. For several types of messages, use an interface type.
//
// An idle actor has no goroutine and no buffer: a million of them cost their state and
// about a hundred bytes each. An actor gets a goroutine only when it has something to
// do, and sometimes needs none: [Ask] and [Ref.Run] let an idle actor work on the
// goroutine of the caller.
//
// Actors form a tree. Below a [System] are two guardians: "user" for the actors of the
// program, and "system" for actors that serve them, such as a logger. Actors spawned
// with the [System] live below the guardian "user", actors spawned with
// [System.Internal] below "system", and actors spawned with a [Context] below the actor
// of that context. An actor stops when its children have stopped. The failure of an
// actor is decided by its own [Supervised] or [OnFailure], else by the [Strategy] of
// its parent. The decision may be to [Restart] it with a fresh behavior, if it was
// spawned by [SpawnFrom]. A behavior learns of these events by optional interfaces (its
// capabilities), such as [Started] and [ChildStopped], and of the end of any other actor
// by [Watch].
//
// A behavior that has something to wait for need not block: [AskThen] brings the answer
// of another actor as a message, [Pipe] the result of any work, [Context.SetTimer] a
// message later. These, and the [Context.Context] for calls of databases and the like,
// belong to the behavior and end with it. [AskFrom] does wait, and returns an error if
// actors wait for each other in a circle. A [Router] distributes messages over a group
// of actors and replaces members that stop.
//
// For tools there are the untyped [Address], a walk through all actors ([System.Walk]),
// a stream of events ([Subscribe], [Listen]), and [Middleware]. An actor pays nothing
// for features that it does not use. Package actortest helps to test actors.
//
// # Words
//
//   - behavior: the code and the state of an actor, given by the program.
//   - capability: an optional interface of a behavior, such as [Started].
//   - mailbox: the queue of the messages that an actor has accepted and not yet handled.
//   - turn: the work of an actor on one goroutine, until its mailbox is empty.
//   - guardian: the root of one of the two trees of actors, "user" and "system".
//   - strategy: the decision of a parent about children that fail.
//   - stash: the messages that a behavior has put aside for later.
//   - watch: the wish of one actor to learn that another has stopped.
//   - dead letter: a message that no actor handles.
//
// # Promises
//
// What the package promises:
//
//  1. At most one goroutine at a time works inside an actor, and each turn sees all
//     that the turn before it has written.
//  2. Messages of one sender to one actor are handled in the order in which they were
//     sent, except for messages that the actor itself puts aside by [Context.Stash].
//  3. A message that was accepted (the call returned nil) is handled exactly once, or
//     is handed to [Closed] exactly once, or was dropped because its actor asks for
//     that ([DropOldest]). A restart keeps the queued messages.
//  4. A mailbox accepts no more than its bound. Only four kinds of messages may exceed
//     the bound: one [Terminated] for each watch; one message of [Context.SetTimer] for
//     each key; results of [AskThen] and [Pipe], at most [AwaitedMax] of them; and
//     messages that come back from a stash.
//  5. A panic, [Context.Fail] or [runtime.Goexit] in code of the user fails the actor
//     that the code belongs to, never the process and never another actor. This holds
//     for a behavior, its capabilities and middleware, for a [Strategy], for the functions
//     of [Watch] and [Listen], and for a logger. The package calls no such code under a
//     lock, so code that blocks delays its own actor only: [System.Shutdown] stops the
//     others and returns when its context ends. There is one exception: Goexit on the
//     goroutine of a caller ([Ref.Run], [Ask], [Ref.Stop] and [Ref.StopIfIdle] of an
//     idle actor) also ends that goroutine, and Go offers no way to prevent this. Give
//     [InlineNever] to an actor that may call Goexit.
//  6. Every [Ask] ends: with the answer, with an error that says why there is none, or
//     with its context. An asker can wait without end only if the behavior has promised
//     a later answer ([Reply.Keep], [Context.Stash]) and the asker's context has no
//     deadline.
//  7. A turn is bounded, so a busy actor does not starve the others. An actor that was
//     woken by [Tell] may wait behind the turn of its sender: at most about two
//     milliseconds if that turn is slow or blocks, and otherwise behind at most 64
//     other actors whose turns are shorter than that.
//  8. All descendants of an actor have stopped before its behavior is given up.
//  9. A failure is decided before the next message. A failure beyond the restarts that
//     a [Strategy] grants stops the actor, and its parent learns of the stop.
//  10. Watches, timers, results and receive timeouts end with the behavior that began
//     them: after a restart the fresh behavior gets no message of one that it has not
//     begun itself.
package actor
