package actor

import (
	"context"
	"errors"
)

// A Ref sends messages of type M to one actor. It is a small value, comparable with ==,
// and may be used by any goroutine. The zero Ref is usable: it behaves like the ref of
// a stopped actor. A Ref keeps its actor in memory, but not the behavior of an actor
// that has stopped.
type Ref[M any] struct{ a *actor[M] }

// Name returns the name of the actor, or "" if it is anonymous.
func (r Ref[M]) Name() string {
	if r.a == nil {
		return ""
	}
	return r.a.name()
}

// Tell puts m in the actor's mailbox and returns at once. It returns [ErrMailboxFull]
// if the mailbox holds its maximum, and [ErrStopped] if the actor accepts no messages
// any more; in both cases m is dropped. Tell allocates nothing.
func (r Ref[M]) Tell(m M) error {
	if r.a == nil {
		return ErrStopped
	}
	wake, err := r.a.push(m, asker{})
	if wake {
		r.a.k.sys.start(r.a)
	}
	if err != nil {
		r.a.refused(m, err)
	}
	return err
}

// TellWait is a [Ref.Tell] that waits for room in a full mailbox. Waiting senders are
// served in order. TellWait returns the error of ctx if ctx ends first; then m is
// dropped. A behavior that waits for room in its own mailbox waits in vain.
func (r Ref[M]) TellWait(ctx context.Context, m M) error {
	if r.a == nil {
		return ErrStopped
	}
	wake, err := r.a.pushWait(ctx, m)
	if wake {
		r.a.k.sys.start(r.a)
	}
	if errors.Is(err, ErrStopped) {
		r.a.refused(m, err)
	}
	return err
}

// Run is [Ref.Tell], but if the actor is idle its turn runs on the calling goroutine,
// and m has been handled when Run returns. Messages that arrive during that turn are
// handled by another goroutine, so the caller waits for its own message only. A panic
// of the behavior does not reach the caller, but [runtime.Goexit] ends the caller's
// goroutine: nothing in Go can stop that.
//
// Run is the same as Tell for an actor with [InlineNever], for an actor that is not
// idle, and if the stack might become too deep: at most 1,024 turns of a system run on
// callers' goroutines at a time, so no more than that are nested in each other.
func (r Ref[M]) Run(m M) error {
	if r.a == nil || !r.a.acquire(false) {
		return r.Tell(m)
	}
	r.a.inline(m, false, nil)
	return nil
}

// Signal wakes the actor without a message: its behavior's Signal method is called at
// least once from now, before any further message. Signals that come before that call
// share it. (After 16 such calls in a row, the actor first handles up to 32 waiting
// messages, and an actor that was asked to stop and has no messages left stops.
// Therefore a behavior may signal itself.) Signal never fails, takes no room in the
// mailbox and allocates nothing. Signal does nothing if the actor has stopped or its
// behavior is not [Signaled].
func (r Ref[M]) Signal() {
	if r.a != nil {
		r.a.signal()
	}
}

// RunSignal is [Ref.Signal], but if the actor is idle the call is made on the
// calling goroutine, under the conditions of [Ref.Run].
func (r Ref[M]) RunSignal() {
	if r.a == nil || r.a.traits&signals == 0 {
		return
	}
	if !r.a.acquire(false) {
		r.a.signal()
		return
	}
	var none M
	r.a.inline(none, true, nil)
}

// Stop lets the actor handle the messages that its mailbox has accepted, and then ends
// the actor. From the call on, the mailbox accepts no messages. Stop may be called any
// number of times, also by the actor itself, and does not wait. An idle actor is
// stopped, and its [Closed] called, when Stop returns; but a goroutine does that if the
// actor has [InlineNever] or children, or if actors that stop each other would nest too
// deep. An actor that waits for its restart does not wait any longer; one that waits
// for results of [AskThen] or [Pipe] stops after it has handled them. Children are
// stopped in the same way, when the mailbox is empty and before the actor itself.
func (r Ref[M]) Stop() {
	if r.a != nil {
		stop(r.a, draining)
	}
}

// StopNow is a [Ref.Stop] that leaves queued messages unhandled: the actor ends after
// the message that it is handling, and so do its children.
func (r Ref[M]) StopNow() {
	if r.a != nil {
		stop(r.a, halting)
	}
}

// StopIfIdle stops the actor if it is idle, has no children, waits for no result of
// [AskThen] or [Pipe], has an empty mailbox, and if Idle of its behavior returns true
// (if it is an [Idler]). StopIfIdle returns true if the actor has stopped or stops now.
// The check is exact: no accepted message is lost, and after true the mailbox accepts
// no messages. [Closed] is called, with no undelivered messages, before StopIfIdle
// returns; with [InlineNever] a goroutine calls it.
func (r Ref[M]) StopIfIdle() bool {
	return r.a == nil || r.a.stopIfIdle()
}

// Wait returns nil once the actor has stopped: [Closed] has returned and the actor's
// name is free. It returns the error of ctx if ctx ends first. An actor that waits for
// itself waits in vain.
func (r Ref[M]) Wait(ctx context.Context) error {
	if r.a == nil {
		return nil
	}
	return r.a.wait(ctx)
}
