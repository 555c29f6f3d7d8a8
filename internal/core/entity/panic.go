package entity

import (
	"fmt"
	"runtime/debug"
	"strings"

	"google.golang.org/protobuf/proto"
)

// A guard is the sort of user code that runs for the running call.
type guard uint8

const (
	unguarded guard = iota // no user code
	guarded                // code that reads the state and does not change it
	evolving               // an Evolve rule
)

// caught makes the outcome of a call whose rule has panicked. The function that sets the guard
// defers it, and removes the guard when the rule has returned.
func (e *Entity) caught(c *Call, rule string) {
	if e.guard == unguarded {
		return // the rule has returned
	}
	v := recover()
	if v == nil {
		e.ensureExtras().exit = debug.Stack() // a Goexit, see Exited: the goroutine is ending
		return
	}
	e.guard = unguarded
	c.Outcome = Outcome{Status: StatusPanicked, Version: e.version, Err: newPanic(v, rule+" "+typeName(c.Message))}
}

// newPanic makes a Panic from the argument of panic. The argument is user code: it may change
// later, and its methods may panic themselves.
func newPanic(v any, rule string) *Panic {
	p := &Panic{Value: v, Rule: rule, Stack: debug.Stack()}
	func() {
		defer func() {
			if recover() != nil {
				p.Value, p.Text = nil, fmt.Sprintf("a %T that panics when it is asked for its text", v)
			}
		}()
		if m, ok := v.(proto.Message); ok && !isNil(m) {
			p.Value = proto.Clone(m)
		}
		p.Text = strings.ToValidUTF8(fmt.Sprint(v), "\uFFFD")
	}()
	return p
}

// Interrupted reports whether user code has neither returned nor panicked, which means that
// [runtime.Goexit] has ended its goroutine. The shell then calls [Entity.Exited] before
// anything else.
func (e *Entity) Interrupted() bool { return e.running != nil }

// Exited is the input that the goroutine of the running call has ended.
func (e *Entity) Exited() {
	c, was, exit := e.running, e.guard, []byte(nil)
	if e.extras != nil {
		exit, e.extras.exit = e.extras.exit, nil
	}
	e.guard = unguarded
	if e.extras != nil && e.extras.group != nil {
		// The rule may end the goroutine again when it runs alone. Its copy of the state is
		// garbage.
		c.decideAlone = true
		e.extras.group.giveUp()
		return
	}
	c.Outcome = Outcome{Status: StatusPanicked, Version: e.version, Err: &Panic{Goexit: true, Rule: "rule of " + typeName(c.Message), Stack: exit}}
	if was == evolving {
		e.dropDamagedState(c)
	} else {
		e.answerWhenDurable(c)
	}
}

// A Panic is a panic or a Goexit of user code.
type Panic struct {
	// Value is the argument of panic, and nil after [runtime.Goexit]. A protobuf message is
	// copied, because it could be a part of the state.
	Value any
	// Text is Value as text, made when the panic was caught.
	Text string
	// Goexit is true if the code called [runtime.Goexit].
	Goexit bool
	// Rule names the rule, such as "Decide library.v1.LendBook".
	Rule string
	// Stack is the stack at the panic, or at the Goexit.
	Stack []byte
}

func (p *Panic) Error() string {
	if p.Goexit {
		return p.Rule + ": called runtime.Goexit"
	}
	return p.Rule + ": panic: " + p.Text
}

// Unwrap returns the panic value if it is an error.
func (p *Panic) Unwrap() error {
	err, _ := p.Value.(error)
	return err
}
