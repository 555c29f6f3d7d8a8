package actor

import "slices"

// A Envelope is a message with its sender or receiver, as [Middleware] sees it.
type Envelope struct {
	// Actor is the actor that has the middleware: it handles the message, or sends it.
	Actor Address
	// To is the receiver of the message. Around Receive it is the same as Actor.
	To Address
	// Message is the message itself.
	Message any
}

// A Middleware is code around the messages of an actor, for example for metrics, traces
// and checks. An actor without middleware pays nothing; with it, each message is boxed
// in an interface. Signals and the methods of all other capabilities do not go through the
// middleware.
//
// The first of an actor's middleware is the outermost.
type Middleware struct {
	// Receive is called for each message instead of the behavior. It calls next to
	// handle the message, on the same goroutine and at most once. If it does not call
	// next, the message counts as handled. Nil means no middleware around receiving.
	Receive func(d Envelope, next func())
	// Send is called for each [Tell] and [Forward] of the actor. It calls next to send
	// the message, and returns the error that the sender gets. Nil means no middleware
	// around sending.
	Send func(d Envelope, next func() error) error
	// Inherit also puts the middleware around the messages of all descendants of the
	// actor, outside their own middleware.
	Inherit bool
}

// receive lets b handle m inside the middleware.
func receive[M any](c *Context[M], b Behavior[M], around []Middleware, m M) {
	for i, w := range around {
		if w.Receive != nil {
			self := Address{c.a}
			w.Receive(Envelope{Actor: self, To: self, Message: m}, func() { receive(c, b, around[i+1:], m) })
			return
		}
	}
	b.Receive(c, m)
}

// send calls last to send m, inside the sender's middleware if it has any.
func send[M, N any](c *Context[M], to Ref[N], m N, last func(*Context[M], Ref[N], N) error) error {
	if c.a.traits&sending == 0 {
		return last(c, to, m)
	}
	d := Envelope{Actor: Address{c.a}, To: to.Address(), Message: m}
	next := func() error { return last(c, to, m) }
	around := c.a.behavior.(*wrapper[M]).middleware
	for _, w := range slices.Backward(around) {
		if w.Send != nil {
			inner := next
			next = func() error { return w.Send(d, inner) }
		}
	}
	return next()
}

// inherited returns the middleware that children inherit.
func inherited(ms []Middleware) (hand []Middleware) {
	for _, m := range ms {
		if m.Inherit {
			hand = append(hand, m)
		}
	}
	return hand
}
