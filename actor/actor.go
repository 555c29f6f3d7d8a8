package actor

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// Flags of an actor.
const (
	busy      uint16 = 1 << iota // somebody owns the turn, or it is on its way to somebody
	signaled                     // Signal is to be called
	noticed                      // there are notices
	draining                     // Stop: nothing new is accepted
	halting                      // StopNow: what is queued is not handled either
	renewing                     // a fresh behavior is to take over
	suspended                    // a failure is not decided yet, or the back-off runs
	winding                      // the children are stopping
	ending                       // Stopping has been called
	closed                       // the mailbox is emptied for ever
	stopped                      // Closed has returned and the name is free
	leaving                      // it stops by its own wish

	refusing = draining | halting | closed
	urgent   = signaled | noticed | halting | renewing // comes before the next message
)

// Traits of an actor, which never change.
const (
	blocking uint8 = 1 << iota // InlineNever
	signals                    // the behavior is Signaled
	fosters                    // the behavior is ChildStopped
	internal                   // it lives below the guardian of the system
	dropping                   // DropOldest
	single                     // its chunks are worked through one message at a time
	sending                    // there is middleware around what it sends
)

// An actor is a behavior with its mailbox. It holds to these rules:
//
//  1. The flag busy is the ownership of the turn. Who sets it owns the actor
//     until he clears it, passes it on (to a worker) or closes the actor. Only
//     the owner calls the behavior and touches cur's messages.
//  2. Ownership is taken and given up under mu, and given up only when, in the
//     same critical section, nothing is queued, urgent or to be stopped. So
//     whoever leaves something to do in an actor finds it busy, and then the
//     owner will look again, or finds it idle and becomes the owner: no wake-up
//     is lost.
//  3. An idle actor has no chunk: head, tail and cur are nil.
//  4. queued counts the messages in cur (taken ones too) and in the chain from
//     head (but those dropped from it). The messages that wait are those less
//     the ones taken from cur. Accepting a message never makes them more than
//     max; a Terminated and what comes back from a stash go above it.
//  5. The chain from head is in the order of acceptance, and every message of
//     cur comes before it. Senders that wait for room come after it.
//  6. Once one of the refusing flags is set nothing is accepted any more. The
//     flag closed is set once, by the owner, who keeps the ownership for ever;
//     what was queued at that moment is the undelivered.
//  7. While suspended or winding is set nobody runs the actor and busy stays
//     set. Who clears the flag under mu is the owner: of suspended the timer,
//     the parent that decides or a StopNow, of winding the last child.
//  8. No goroutine holds the locks of two actors.
//
// The steps of a turn are in turn.go, those of the end in life.go. The reasons:
// one short lock makes the rules above easy to check, and the turn takes it
// once a chunk, not once a message. A lock that only spins was no faster at
// telling on two cores, and it wastes one of them while its holder is
// preempted. A message is kept by value in a chunk that comes from a pool, so
// sending allocates nothing. A list linked into the actors was rejected for the
// registry: it costs 32 bytes an actor, a slice of the living costs 16.
type actor[M any] struct {
	core
	k        *kind[M]
	behavior Behavior[M] // the owner's; nil once stopped
	head     *chunk[M]
	tail     *chunk[M]
	cur      *chunk[M] // what the turn works through
}

// A core is what of an actor does not depend on its message type.
type core struct {
	mu      sync.Mutex
	flags   uint16
	traits  uint8
	shard   uint8 // of the guardian's registry
	queued  uint32
	max     uint32
	index   uint32 // among its siblings, guarded by the lock of who holds them
	id      uint64 // among its siblings, set before it is known to anybody
	handled uint64
	ext     *extension // what few actors need
}

// A node is an actor without its message type.
type node interface {
	runnable
	base() *core
	system() *System
	// stop asks the actor to stop and returns children that are to be stopped
	// now too. With away it never calls the behavior on the calling goroutine.
	stop(how uint16, away bool) (kids []node)
	inspect(i *Info)
	// order adds a notice for the owner. It returns false if the actor takes none.
	order(n notice) bool
}

// An extension holds what an actor may do without. It is allocated on demand.
type extension struct {
	name    string        // set before the actor is known to anybody
	parent  node          // likewise; nil below a guardian
	done    chan struct{} // made by the first who waits for the stop
	waiting []waiter
	family  *family
	health  *health
}

// A family is whom an actor has around itself.
type family struct {
	children []node
	names    map[string]node
	ids      uint64
	strategy *Strategy // for the children; nil is that of the system
	tally    tally     // of restarts of all children together
	watchers map[node]observer
	observed uint64 // how many watches of this actor there have been, which is their order
	notices  []notice
	own      *belongings
}

// A kind holds what the actors of one message type in one system share.
type kind[M any] struct {
	sys      *System
	chunks   sync.Pool
	contexts sync.Pool
	trained  sync.Map // reflect.Type of a behavior to *trained
	last     atomic.Pointer[trained]
}

func newKind[M any](s *System) *kind[M] {
	k := &kind[M]{sys: s}
	k.chunks.New = func() any { return new(chunk[M]) }
	k.contexts.New = func() any { return new(Context[M]) }
	return k
}

func (c *core) base() *core { return c }

func (a *actor[M]) system() *System { return a.k.sys }

// extra returns the extension, making it if need be. It is called under the lock.
func (c *core) extra() *extension {
	if c.ext == nil {
		c.ext = new(extension)
	}
	return c.ext
}

// kin returns the family, making it if need be. It is called under the lock.
func (c *core) kin() *family {
	x := c.extra()
	if x.family == nil {
		x.family = new(family)
	}
	return x.family
}

// children returns a copy of the list of children. It is called under the lock.
func (c *core) children() []node {
	if c.ext == nil || c.ext.family == nil {
		return nil
	}
	return append([]node(nil), c.ext.family.children...)
}

// hasChildren is called under the lock.
func (c *core) hasChildren() bool {
	return c.ext != nil && c.ext.family != nil && len(c.ext.family.children) > 0
}

// origin returns the name and the parent, which is nil for an actor below a
// guardian. Both are set before the actor is known to anybody.
func (c *core) origin() (name string, parent node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ext == nil {
		return "", nil
	}
	return c.ext.name, c.ext.parent
}

func (c *core) name() string {
	name, _ := c.origin()
	return name
}

func (c *core) parent() node {
	_, parent := c.origin()
	return parent
}

// own makes the caller the owner if the actor is idle and may run on the
// caller's goroutine, which [actor.inline] must follow. With patience it yields
// and looks again if the actor is busy with its last message: a turn on another
// core is often over by then, and to queue means to park and to be woken.
func (a *actor[M]) own(patience bool) bool {
	if a.traits&blocking != 0 {
		return false
	}
	idle, last := a.tryOwn()
	if last && patience {
		runtime.Gosched()
		idle, _ = a.tryOwn()
	}
	if idle && !a.k.sys.inline[a.shard].enter() {
		a.giveUp(0)
		return false
	}
	return idle
}

// tryOwn makes the caller the owner of an idle actor. If it is busy, last tells
// whether nothing is queued behind what it does.
func (a *actor[M]) tryOwn() (idle, last bool) {
	a.mu.Lock()
	if a.flags&refusing == 0 {
		idle = a.flags&busy == 0
		last = !idle && a.head == nil
		if idle {
			a.flags |= busy
		}
	}
	a.mu.Unlock()
	return idle, last
}

// signal asks for a call of Signal. An idle actor is started.
func (a *actor[M]) signal() {
	if a.traits&signals == 0 {
		return
	}
	a.mu.Lock()
	if a.flags&(signaled|halting|closed) != 0 {
		a.mu.Unlock()
		return
	}
	a.press(signaled)
}

// press sets urgent flags and starts an idle actor. It is called under the
// lock and releases it.
func (a *actor[M]) press(flags uint16) {
	idle := a.flags&busy == 0
	a.flags |= busy | flags
	if a.cur != nil {
		a.cur.taken.Or(control)
	}
	a.mu.Unlock()
	if idle {
		a.k.sys.start(a)
	}
}
