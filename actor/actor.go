package actor

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// Flags of an actor.
const (
	busy             uint16 = 1 << iota // a goroutine owns the turn, or the turn is being handed to one
	signaled                            // the owner must call Signal
	systemQueued                        // the actor has system messages
	draining                            // Stop was called: the mailbox accepts nothing more
	halting                             // StopNow was called: queued messages are not handled either
	restarting                          // the owner must replace the behavior by a fresh one
	suspended                           // the parent has not decided about a failure, or the back-off runs
	waitsForChildren                    // the children are stopping
	ending                              // Stopping has been called
	closed                              // the mailbox was emptied and stays empty
	stopped                             // Closed has returned and the name is free
	stopsItself                         // the actor has called Context.Stop

	refusing = draining | halting | closed
	urgent   = signaled | systemQueued | halting | restarting // the owner looks at these before the next message
)

// Traits of an actor, which never change.
const (
	blocking        uint8 = 1 << iota // InlineNever
	signals                           // the behavior satisfies Signaled
	watchesChildren                   // the behavior satisfies ChildStopped
	internal                          // the actor lives below the guardian "system"
	dropping                          // DropOldest
	single                            // the turn detaches one message at a time
	sending                           // there is middleware around the messages that the actor sends
	placed                            // the actor has a name or a parent, and an extension from the start
)

// An actor is a behavior with its mailbox. These rules hold:
//
//  1. The flag busy is the ownership of the turn. The goroutine that sets the flag owns
//     the actor until it clears the flag, passes the ownership on (to a worker) or
//     closes the actor. Only the owner calls the behavior and touches cur's messages.
//  2. Ownership is taken and given up under mu, and given up only when, in the same
//     critical section, nothing is queued, urgent or to be stopped. A goroutine that
//     leaves work in an actor therefore finds the actor busy, and then the owner looks
//     again, or finds it idle and becomes the owner. No wake-up is lost.
//  3. An idle actor has no chunk: head, tail and cur are nil.
//  4. queued counts the messages in cur, including the taken ones, and the messages in
//     the chain from head, without the dropped ones. The number of waiting messages is
//     queued minus the number taken from cur. Accepting a message never makes that
//     number larger than max. Only messages put in by force (a Terminated, a timer's
//     message, a result) and unstashed messages go above max.
//  5. The chain from head is in the order of acceptance, and every message of cur comes
//     before it. Messages of senders that wait for room come after the chain.
//  6. Once one of the refusing flags is set, no message is accepted any more. The owner
//     sets the flag closed once and then never gives up the ownership. The messages
//     that are queued when closed is set are the undelivered ones.
//  7. While suspended or waitsForChildren is set, no goroutine runs the actor and busy stays
//     set. The goroutine that clears the flag under mu becomes the owner. The timer,
//     the deciding parent or a stop clears suspended; the last child clears waitsForChildren.
//  8. No goroutine holds the locks of two actors.
//
// turn.go lists the steps of a turn, stop.go the steps of the end.
//
// The reasons: one short lock makes the rules above easy to check, and the turn takes
// the lock once a chunk, not once a message. A spin lock made Tell no faster on two
// cores, and wastes a core while its holder is preempted. A chunk keeps messages by
// value and comes from a pool, so sending allocates nothing. The registry is a slice of
// the living actors, which costs 16 bytes an actor; a list linked through the actors
// was rejected because it costs 32.
type actor[M any] struct {
	core
	k        *kind[M]
	behavior Behavior[M] // only the owner uses it; nil once stopped
	head     *chunk[M]
	tail     *chunk[M]
	cur      *chunk[M] // the chunk that the turn works through
}

// A core holds the fields of an actor that do not depend on its message type.
type core struct {
	mu      sync.Mutex
	flags   uint16
	traits  uint8
	shard   uint8 // the actor's shard of the guardian's registry
	queued  uint32
	max     uint32
	index   uint32 // place among its siblings, guarded by the lock of the list that holds them
	id      uint64 // number among its siblings, set before other goroutines can reach the actor
	handled uint64
	ext     *extension // fields that few actors need; nil in most
}

// A node is an actor without its message type.
type node interface {
	runnable
	base() *core
	system() *System
	// stop asks the actor to stop and returns the children that the caller must stop
	// too. If away is true, stop never calls the behavior on the calling goroutine.
	stop(how uint16, away bool) (kids []node)
	inspect(i *Info)
	// sendSystem adds a system message for the owner. It returns false if the actor accepts no
	// system messages any more.
	sendSystem(n systemMessage) bool
}

// An extension holds the fields that most actors do not need. It is allocated on
// demand.
type extension struct {
	name        string        // set before other goroutines can reach the actor
	parent      node          // set at the same time as name; nil below a guardian
	done        chan struct{} // made by the first call of wait
	waiting     []waiter
	relations   *relations
	supervision *supervision
}

// Relations holds an actor's children, its watchers, its system messages and its resources.
type relations struct {
	children       []node
	names          map[string]node
	ids            uint64
	strategy       *Strategy // the strategy for the children; nil: the strategy of the system
	tally          tally     // restarts of all children together, see Strategy.All
	watchers       map[node]observer
	observed       uint64 // number of watches of this actor so far; numbers the next watch
	systemMessages []systemMessage
	resources      *resources
}

// A kind holds the pools and tables that all actors of one message type in one system
// share.
type kind[M any] struct {
	sys      *System
	self     any // the *kind[M] itself, see kindOf
	chunks   sync.Pool
	contexts sync.Pool
	types    sync.Map // reflect.Type of a behavior to *behaviorType
	last     atomic.Pointer[behaviorType]
}

func newKind[M any](s *System) *kind[M] {
	k := &kind[M]{sys: s}
	k.chunks.New = func() any { return new(chunk[M]) }
	k.contexts.New = func() any { return new(Context[M]) }
	return k
}

func (c *core) base() *core { return c }

func (a *actor[M]) system() *System { return a.k.sys }

// extra returns the extension and allocates it if necessary. The caller holds the lock.
func (c *core) extra() *extension {
	if c.ext == nil {
		c.ext = new(extension)
	}
	return c.ext
}

// relations returns the relations of the actor and allocates them if necessary. The caller holds
// the lock.
func (c *core) relations() *relations {
	x := c.extra()
	if x.relations == nil {
		x.relations = new(relations)
	}
	return x.relations
}

// children returns a copy of the list of children. The caller holds the lock.
func (c *core) children() []node {
	if c.ext == nil || c.ext.relations == nil {
		return nil
	}
	return append([]node(nil), c.ext.relations.children...)
}

// hasChildren reports whether the actor has living children. The caller holds the lock.
func (c *core) hasChildren() bool {
	return c.ext != nil && c.ext.relations != nil && len(c.ext.relations.children) > 0
}

// origin returns the name and the parent, which is nil for an actor below a guardian.
// It needs no lock: an actor with one of them has its extension from the start, and both
// never change.
func (c *core) origin() (name string, parent node) {
	if c.traits&placed == 0 {
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

// acquire makes the caller the owner if the actor is idle and may run on the caller's
// goroutine, and a call of [actor.inline] must follow. With patience, acquire yields and
// looks a second time if the actor is busy with its last message: a turn on another
// core is often over by then, and queueing would park the caller and wake it again.
func (a *actor[M]) acquire(patience bool) bool {
	if a.traits&blocking != 0 {
		return false
	}
	idle, last := a.tryAcquire()
	if last && patience {
		runtime.Gosched()
		idle, _ = a.tryAcquire()
	}
	if idle && !a.k.sys.inline[a.shard].enter() {
		a.giveUp(0)
		return false
	}
	return idle
}

// tryAcquire makes the caller the owner of an idle actor. If the actor is busy, last
// reports whether the queue behind its current chunk is empty.
func (a *actor[M]) tryAcquire() (idle, last bool) {
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

// signal requests a call of the behavior's Signal method, and starts an idle actor.
func (a *actor[M]) signal() {
	if a.traits&signals == 0 {
		return
	}
	a.mu.Lock()
	if a.flags&(signaled|halting|closed) != 0 {
		a.mu.Unlock()
		return
	}
	a.setUrgent(signaled)
}

// setUrgent sets urgent flags and starts an idle actor. The caller holds the lock; setUrgent
// releases it.
func (a *actor[M]) setUrgent(flags uint16) {
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
