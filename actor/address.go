package actor

import (
	"context"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// An Address is an actor without its message type, for tools and logs. It is a small
// value, comparable with ==, and may be used by any goroutine. The zero Address behaves
// like the address of a stopped actor, and has no path.
type Address struct{ n node }

// Address returns the address of the actor.
func (r Ref[M]) Address() Address { return Address{nodeOf(r)} }

func nodeOf[M any](r Ref[M]) node {
	if r.a == nil {
		return nil
	}
	return r.a
}

// RefOf returns the ref of the actor at an address. It returns false if M is not the
// actor's message type.
func RefOf[M any](a Address) (Ref[M], bool) {
	x, ok := a.n.(*actor[M])
	return Ref[M]{x}, ok
}

// Lookup returns the living actor with a path, such as "/user/library/book-7". It
// returns false if there is none.
func (s *System) Lookup(path string) (Address, bool) {
	names := strings.Split(path, "/")
	if len(names) < 3 || names[0] != "" {
		return Address{}, false
	}
	var n node
	switch names[1] {
	case s.user.name:
		n = s.user.find(names[2])
	case s.system.name:
		n = s.system.find(names[2])
	}
	for _, name := range names[3:] {
		if n == nil {
			break
		}
		n = n.base().child(name)
	}
	return Address{n}, n != nil
}

// child returns the child with a name. A name such as "$7" is the number of an
// anonymous child.
func (c *core) child(name string) node {
	c.mu.Lock()
	if c.ext == nil || c.ext.relations == nil {
		c.mu.Unlock()
		return nil
	}
	n := c.ext.relations.names[name]
	kids := c.children()
	c.mu.Unlock()
	if id, ok := anonymous(name); ok {
		return withID(kids, id)
	}
	return n
}

// Name returns the name of the actor, or "" if it is anonymous.
func (a Address) Name() string {
	if a.n == nil {
		return ""
	}
	return a.n.base().name()
}

// Path returns the names of the guardian, the ancestors and the actor, each after a
// slash. It is unique among the living actors of a system. An anonymous actor has a
// number after "$" in place of a name, such as "/user/$7".
func (a Address) Path() string {
	if a.n == nil {
		return ""
	}
	var names []string
	last := a.n
	for n := a.n; n != nil; n = n.base().parent() {
		b := n.base()
		name := b.name()
		if name == "" {
			name = anonymousMark + strconv.FormatUint(b.id, 36)
		}
		names = append(names, name)
		last = n
	}
	names = append(names, last.system().guardian(last.base().traits).name, "")
	slices.Reverse(names)
	return strings.Join(names, "/")
}

// String returns the path.
func (a Address) String() string { return a.Path() }

// Parent returns the address of the parent. It is the zero Address for an actor
// below a guardian.
func (a Address) Parent() Address {
	if a.n == nil {
		return Address{}
	}
	return Address{a.n.base().parent()}
}

// Children returns the addresses of the living children, in no particular order.
func (a Address) Children() []Address {
	if a.n == nil {
		return nil
	}
	b := a.n.base()
	b.mu.Lock()
	kids := b.children()
	b.mu.Unlock()
	return addresses(kids)
}

func addresses(ns []node) []Address {
	as := make([]Address, len(ns))
	for i, n := range ns {
		as[i] = Address{n}
	}
	return as
}

// Stop stops the actor as [Ref.Stop] does.
func (a Address) Stop() {
	if a.n != nil {
		stop(a.n, draining)
	}
}

// StopNow stops the actor as [Ref.StopNow] does.
func (a Address) StopNow() {
	if a.n != nil {
		stop(a.n, halting)
	}
}

// Wait waits for the end of the actor as [Ref.Wait] does.
func (a Address) Wait(ctx context.Context) error {
	if a.n == nil {
		return nil
	}
	return a.n.base().wait(ctx)
}

// A Condition says what an actor is doing.
type Condition uint8

// The conditions of an actor.
const (
	Idle         Condition = iota // the actor waits for messages
	Busy                          // the actor handles a message, or is about to
	Suspended                     // the actor waits for a restart, or for the decision of its parent
	ShuttingDown                  // the actor was asked to stop, or waits for its children to stop
	Gone                          // the actor has stopped
)

// String returns the name of the condition.
func (c Condition) String() string {
	switch c {
	case Idle:
		return "idle"
	case Busy:
		return "busy"
	case Suspended:
		return "suspended"
	case ShuttingDown:
		return "shutting down"
	case Gone:
		return "gone"
	}
	return fmt.Sprintf("condition %d", uint8(c))
}

// An Info describes one actor for a tool, such as a page of a debug server.
type Info struct {
	Actor      Address
	Path       string
	Message    reflect.Type // type of the messages that the actor handles
	Condition  Condition
	Mailbox    int // number of waiting messages
	MailboxMax int
	Handled    uint64 // number of messages handled since the actor was spawned
	Restarts   uint64
	LastError  error // the last failure, or nil
	Children   int
}

// Info describes the actor at the time of the call.
func (a Address) Info() Info {
	if a.n == nil {
		return Info{Condition: Gone}
	}
	i := Info{Actor: a, Path: a.Path()}
	a.n.inspect(&i)
	return i
}

// inspect fills in the fields that the lock guards.
func (a *actor[M]) inspect(i *Info) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i.Message = reflect.TypeFor[M]()
	i.Mailbox, i.MailboxMax, i.Handled = int(a.length()), int(a.max), a.handled
	if a.cur != nil {
		i.Handled += uint64(a.cur.taken.Load() & counted)
	}
	if a.ext != nil && a.ext.supervision != nil {
		i.Restarts, i.LastError = a.ext.supervision.restarts, a.ext.supervision.last
	}
	if a.hasChildren() {
		i.Children = len(a.ext.relations.children)
	}
	switch f := a.flags; {
	case f&stopped != 0:
		i.Condition = Gone
	case f&refusing != 0:
		i.Condition = ShuttingDown
	case f&suspended != 0:
		i.Condition = Suspended
	case f&busy != 0:
		i.Condition = Busy
	}
}

// Walk yields an [Info] of every living actor, each before its children. An Info is as
// of the time at which it is yielded. Walk copies one list of siblings at a time.
func (s *System) Walk() iter.Seq[Info] {
	return func(yield func(Info) bool) {
		for _, g := range []*guardian{&s.user, &s.system} {
			if !walk(addresses(g.members()), yield) {
				return
			}
		}
	}
}

// walk keeps its own list of open sibling lists instead of calling itself, so a long
// chain of parents and children needs no deep stack.
func walk(siblings []Address, yield func(Info) bool) bool {
	inside := [][]Address{siblings}
	for len(inside) > 0 {
		list := &inside[len(inside)-1]
		if len(*list) == 0 {
			inside = inside[:len(inside)-1]
			continue
		}
		a := (*list)[0]
		*list = (*list)[1:]
		i := a.Info()
		if i.Condition == Gone {
			continue
		}
		if !yield(i) {
			return false
		}
		if kids := a.Children(); len(kids) > 0 {
			inside = append(inside, kids)
		}
	}
	return true
}
