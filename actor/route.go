package actor

import (
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"sync/atomic"
)

// A Route sends a message to one or all of a fixed group of actors. It is a function
// and not an actor, so it adds no mailbox on the way, and may be called by any
// goroutine. A route without members returns [ErrStopped]. A [Router] can also ask and
// wait for room, and replaces members that have stopped.
type Route[M any] func(m M) error

// SpawnPool spawns n actors of the same behavior, with the names name-0, name-1 and so
// on; if name is "", all are anonymous. If one of them cannot be spawned, SpawnPool
// stops those that it has spawned and returns the error.
func SpawnPool[M any](p Parent, name string, n int, fresh func() Behavior[M], opts ...Option) ([]Ref[M], error) {
	members := make([]Ref[M], 0, max(n, 0))
	whole := false
	defer func() { // deferred: fresh may panic
		if whole {
			return
		}
		for _, m := range members {
			m.Stop()
		}
	}()
	for i := range n {
		each := name
		if name != "" {
			each += "-" + strconv.Itoa(i)
		}
		r, err := SpawnFrom(p, each, fresh, opts...)
		if err != nil {
			return nil, fmt.Errorf("spawn pool: %w", err)
		}
		members = append(members, r)
	}
	whole = true
	return members, nil
}

// RoundRobin routes each message to the next member in turn. It skips a member that
// refuses the message. If all members refuse, it returns the error of the last one.
func RoundRobin[M any](members ...Ref[M]) Route[M] {
	members = slices.Clone(members)
	var turn atomic.Uint64
	return func(m M) error {
		err := ErrStopped
		first := turn.Add(1) - 1
		for i := range uint64(len(members)) {
			if err = members[(first+i)%uint64(len(members))].Tell(m); err == nil {
				return nil
			}
		}
		return err
	}
}

// ConsistentHash routes all messages with the same key to the same member. The choice
// depends only on the key and the number of members. If a member is added at the end,
// it takes its share of the keys from all others, and no other key moves.
func ConsistentHash[M any](key func(M) string, members ...Ref[M]) Route[M] {
	members = slices.Clone(members)
	return func(m M) error {
		if len(members) == 0 {
			return ErrStopped
		}
		return members[rendezvous(key(m), len(members))].Tell(m)
	}
}

// rendezvous returns the member that has the highest weight for a key. It computes the
// weight of every member. For groups of up to a few hundred members that costs no more
// than a hash ring, and it needs no memory.
func rendezvous(key string, members int) (best int) {
	h := fnv.New64a()
	h.Write([]byte(key))
	sum := h.Sum64()
	var most uint64
	for i := range members {
		if w := mix(sum ^ mix(uint64(i)+1)); i == 0 || w > most {
			best, most = i, w
		}
	}
	return best
}

// mix is the finalizer of splitmix64: each bit of x changes half of the result.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Broadcast routes each message to all members. It joins the errors of the members that
// refuse; the others have got the message.
func Broadcast[M any](members ...Ref[M]) Route[M] {
	members = slices.Clone(members)
	return func(m M) error {
		if len(members) == 0 {
			return ErrStopped
		}
		var errs []error
		for _, r := range members {
			errs = append(errs, r.Tell(m))
		}
		return errors.Join(errs...)
	}
}
