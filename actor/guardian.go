package actor

import (
	"fmt"
	"hash/maphash"
	"slices"
	"strconv"
	"sync"
)

// A guardian is the registry of the actors that have no actor as a parent. It is spread
// over several locks (shards), and is not an actor itself.
type guardian struct {
	sys        *System
	name       string
	traits     uint8 // traits of the actors below the guardian
	middleware []Middleware
	seed       maphash.Seed
	living     counter // counts its actors and all their descendants
	closing    sync.Once
	shards     [shardsMax]shard
}

// A shard is a part of the registry.
type shard struct {
	mu      sync.Mutex
	closed  bool
	members []node
	names   map[string]node
	ids     uint64
	_       [64]byte // two shards share no cache line
}

func (g *guardian) init(s *System, name string, traits uint8, around []Middleware) {
	g.sys, g.name, g.traits = s, name, traits
	g.middleware = slices.Clone(around)
	g.seed = maphash.MakeSeed()
	g.living.init()
}

// guardian returns the guardian above an actor with these traits.
func (s *System) guardian(traits uint8) *guardian {
	if traits&internal != 0 {
		return &s.system
	}
	return &s.user
}

// stopAll closes the registry and stops the actors in it.
func (g *guardian) stopAll(how uint16) {
	for i := range g.shards {
		sh := &g.shards[i]
		sh.mu.Lock()
		sh.closed = true
		members := slices.Clone(sh.members)
		sh.mu.Unlock()
		stopAll(members, how)
	}
	g.closing.Do(g.living.done)
}

// add puts an actor in the registry.
func (g *guardian) add(n node, name string) error {
	b := n.base()
	if name != "" {
		b.shard = g.shardOf(name)
	}
	sh := &g.shards[b.shard]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.closed {
		return fmt.Errorf("spawn %q: system: %w", name, ErrStopped)
	}
	if err := reserveName(n, name, &sh.names); err != nil {
		return err
	}
	b.id = sh.ids*shardsMax + uint64(b.shard)
	sh.ids++
	b.index = uint32(len(sh.members))
	sh.members = append(sh.members, n)
	return nil
}

func (g *guardian) shardOf(name string) uint8 {
	if g.sys.executor != nil {
		return 0 // one list in the order of the spawns, so that runs with a test scheduler are repeatable
	}
	return uint8(maphash.String(g.seed, name) % shardsMax)
}

// remove takes an actor out of the registry.
func (g *guardian) remove(n node, name string) {
	sh := &g.shards[n.base().shard]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	delete(sh.names, name)
	sh.members = swapRemove(sh.members, n)
}

// find returns the actor with a name. A name such as "$7" is the number of an anonymous
// actor.
func (g *guardian) find(name string) node {
	if id, ok := anonymous(name); ok {
		sh := &g.shards[id%shardsMax]
		sh.mu.Lock()
		defer sh.mu.Unlock()
		return withID(sh.members, id)
	}
	sh := &g.shards[g.shardOf(name)]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.names[name]
}

// members returns a copy of the list of actors.
func (g *guardian) members() (all []node) {
	for i := range g.shards {
		sh := &g.shards[i]
		sh.mu.Lock()
		all = append(all, sh.members...)
		sh.mu.Unlock()
	}
	return all
}

// addChild makes an actor the child of another.
func (c *core) addChild(n node, name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flags&(halting|waitsForChildren|ending|closed|stopsItself) != 0 {
		return fmt.Errorf("spawn %q: parent: %w", name, ErrStopped)
	}
	f := c.relations()
	if err := reserveName(n, name, &f.names); err != nil {
		return err
	}
	b := n.base()
	b.id = f.ids
	f.ids++
	b.index = uint32(len(f.children))
	f.children = append(f.children, n)
	return nil
}

// unregister takes an actor out of the registry or out of its parent's children. If the parent
// waits for its children and this was the last one, unregister returns the parent, which the
// caller then owns. It also returns the number of restarts of the parent.
func (a *actor[M]) unregister() (last node, restarts uint64) {
	name, parent := a.origin()
	if parent == nil {
		a.k.sys.guardian(a.traits).remove(a, name)
		return nil, 0
	}
	p := parent.base()
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.ext.relations
	delete(f.names, name)
	f.children = swapRemove(f.children, a)
	if p.flags&waitsForChildren == 0 || len(f.children) > 0 {
		return nil, p.restarts()
	}
	p.flags &^= waitsForChildren
	return parent, p.restarts()
}

// reserveName reserves a name. The caller holds the lock that guards the names.
func reserveName(n node, name string, names *map[string]node) error {
	if name == "" {
		return nil
	}
	if _, taken := (*names)[name]; taken {
		return &NameError{Name: name}
	}
	if *names == nil {
		*names = make(map[string]node)
	}
	(*names)[name] = n
	return nil
}

// swapRemove takes an actor out of a list, and moves the last actor of the list to its
// place. The caller holds the lock of the list.
func swapRemove(list []node, n node) []node {
	i, last := n.base().index, len(list)-1
	list[i] = list[last]
	list[i].base().index = i
	list[last] = nil
	list = list[:last]
	if c := cap(list); c > shrinkMin && last < c/4 {
		list = append(make([]node, 0, c/2), list...)
	}
	return list
}

// anonymousMark precedes the number of an anonymous actor in a path, such as "$7".
const anonymousMark = "$"

// anonymous returns the number in a name such as "$7". It returns false for any other
// name.
func anonymous(name string) (id uint64, ok bool) {
	if len(name) < 2 || name[:1] != anonymousMark {
		return 0, false
	}
	id, err := strconv.ParseUint(name[1:], 36, 64)
	return id, err == nil
}

func withID(list []node, id uint64) node {
	for _, n := range list {
		if n.base().id == id && n.base().name() == "" {
			return n
		}
	}
	return nil
}
