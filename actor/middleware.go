package actor

import "slices"

// A Delivery is a message on its way, as [Middleware] sees it.
type Delivery struct {
	// Actor is who handles the message, or sends it.
	Actor Address
	// To is who is to get the message. It is Actor around receive.
	To Address
	// Message is the message itself.
	Message any
}

// A Middleware is code around the messages of an actor, for such things as
// metrics, traces and checks. An actor without middleware pays nothing for it;
// with it, each message is boxed in an interface. Signals and the calls of all
// other abilities pass by it.
//
// The first of an actor's middleware is the outermost.
type Middleware struct {
	// Receive is called in place of the handling of each message, which it does
	// by calling next, on the same goroutine and at most once. If it does not
	// call next, the message counts as handled. Nil: none.
	Receive func(d Delivery, next func())
	// Send is called in place of each [Tell] and [Forward] of the actor, which it
	// does by calling next; it returns the error that the sender gets. Nil: none.
	Send func(d Delivery, next func() error) error
	// Inherit hands the middleware on to the children of the actor, before their
	// own, and to their children.
	Inherit bool
}

// receive lets b handle m inside the middleware.
func receive[M any](c *Context[M], b Behavior[M], around []Middleware, m M) {
	for i, w := range around {
		if w.Receive != nil {
			self := Address{c.a}
			w.Receive(Delivery{Actor: self, To: self, Message: m}, func() { receive(c, b, around[i+1:], m) })
			return
		}
	}
	b.Receive(c, m)
}

// send lets the last function send m, inside the middleware of the sender,
// if it has any.
func send[M, N any](c *Context[M], to Ref[N], m N, last func(*Context[M], Ref[N], N) error) error {
	if c.a.traits&sending == 0 {
		return last(c, to, m)
	}
	d := Delivery{Actor: Address{c.a}, To: to.Address(), Message: m}
	next := func() error { return last(c, to, m) }
	around := c.a.behavior.(*shell[M]).middleware
	for _, w := range slices.Backward(around) {
		if w.Send != nil {
			inner := next
			next = func() error { return w.Send(d, inner) }
		}
	}
	return next()
}

// inherited returns what a child takes over.
func inherited(ms []Middleware) (hand []Middleware) {
	for _, m := range ms {
		if m.Inherit {
			hand = append(hand, m)
		}
	}
	return hand
}
