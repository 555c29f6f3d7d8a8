package actor

import (
	"context"
	"errors"
)

// A Ref sends messages of type M to one actor. It is a small value, comparable
// with ==, and may be used by any goroutine. The zero Ref is usable: it is that
// of an actor that has stopped. A Ref keeps the memory of its actor, but not
// of a stopped one's behavior.
type Ref[M any] struct{ a *actor[M] }

// Name returns the name of the actor, or "" if it is anonymous.
func (r Ref[M]) Name() string {
	if r.a == nil {
		return ""
	}
	return r.a.name()
}

// Tell hands m to the actor's mailbox and returns at once. It returns
// [ErrMailboxFull] if the mailbox holds its maximum and [ErrStopped] if the
// actor accepts nothing any more; then m is dropped. It allocates nothing.
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

// TellWait is [Ref.Tell] that waits for room in a full mailbox. Those who wait
// are served in order. It returns the error of ctx if that ends first; then m
// is dropped. A behavior that waits for room in its own mailbox waits in vain.
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

// Run is [Ref.Tell], but if the actor is idle its turn runs on the calling
// goroutine, and m has been handled when Run returns. Messages that arrive
// during that turn are handed to another goroutine, so the caller is held for
// its own message only. A panic of the behavior does not reach the caller, but
// [runtime.Goexit] ends the caller's goroutine: nothing in Go can stop that.
//
// Run is Tell for an actor with [InlineNever], and where the stack might become
// too deep: at most 1,024 turns of a system run on callers' goroutines at a
// time, so no more than that are nested in each other.
func (r Ref[M]) Run(m M) error {
	if r.a == nil || !r.a.own(false) {
		return r.Tell(m)
	}
	r.a.inline(m, false, nil)
	return nil
}

// Signal wakes the actor without a message: its behavior's Signal method is
// called at least once from now, before any further message. Signals that come
// before that call share it. (If 16 calls come in a row, up to 32 messages that wait
// are handled before the next one, and an actor that is to stop and has none left
// stops: so a behavior may signal itself.) Signal never fails, takes no room in the mailbox
// and allocates nothing. It does nothing on a stopped actor, and on one whose
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
	if !r.a.own(false) {
		r.a.signal()
		return
	}
	var none M
	r.a.inline(none, true, nil)
}

// Stop lets the actor handle what its mailbox has accepted and then ends it.
// From now on nothing is accepted. It may be called any number of times, also
// by the actor itself, and does not wait. An idle actor is stopped, and its
// [Closed] called, when Stop returns; with [InlineNever], with children, or where
// ends of actors that stop each other would nest too deep, a goroutine does that.
// An actor that waits for its restart does not wait any longer; one that waits for
// results of [AskThen] or [Pipe] stops when they are handled. Children are stopped in the same way, when the mailbox is
// empty and before the actor itself.
func (r Ref[M]) Stop() {
	if r.a != nil {
		stop(r.a, draining)
	}
}

// StopNow is [Ref.Stop] that leaves what is queued unhandled: the actor ends
// after the message that it is handling, and so do its children.
func (r Ref[M]) StopNow() {
	if r.a != nil {
		stop(r.a, halting)
	}
}

// StopIfIdle stops the actor if it is idle, has no children, waits for no result of
// [AskThen] or [Pipe], its mailbox is empty
// and its behavior, if it is an [Idler], says so too. It reports whether the actor is
// stopped now. It is exact: no message that was accepted
// is lost by it, and after true nothing is accepted. [Closed] is called, with
// nothing undelivered, before StopIfIdle returns; with [InlineNever] a goroutine
// calls it.
func (r Ref[M]) StopIfIdle() bool {
	return r.a == nil || r.a.stopIfIdle()
}

// Wait returns nil once the actor has stopped, which includes its call of
// [Closed] and the release of its name, or the error of ctx if that ends first.
// An actor that waits for itself waits in vain.
func (r Ref[M]) Wait(ctx context.Context) error {
	if r.a == nil {
		return nil
	}
	return r.a.wait(ctx)
}
