package crashtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/perdure/perdure/store"
)

// Bounds of the messages and claims that a client remembers to settle and release later.
const (
	keptMessagesMax = 16
	keptClaimsMax   = 8
)

// A client plans commands and learns from their outcomes. Only this client commits to its
// own entities, so commands on those cannot conflict. The other entities are shared by all
// clients; the client knows their versions only from their last outcome.
type client struct {
	life, number int // life of the process, number of the client within it
	commands     int // number of commands planned so far
	random       *rand.Rand
	own          []store.Key
	shared       *sharedVersions
	versions     map[store.Key]store.Version // versions of the client's own entities
	messages     []taken
	claims       map[store.Key][]name
}

// sharedVersions holds the versions of the entities that all clients commit to.
type sharedVersions struct {
	mu       sync.Mutex
	keys     []store.Key
	versions map[store.Key]store.Version
}

func (s *sharedVersions) get(key store.Key) store.Version {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.versions[key]
}

func (s *sharedVersions) moved(key store.Key, v store.Version) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.versions[key] = max(s.versions[key], v)
}

// The numbers of entities of the workload.
const (
	ownEntities    = 4 // per client; the last one is a durable-state entity
	sharedEntities = 2
)

func ownKeys(client int) []store.Key {
	var keys []store.Key
	for i := range ownEntities - 1 {
		keys = append(keys, store.Key{Kind: kindEvents, ID: fmt.Sprintf("%d-%d", client, i)})
	}
	return append(keys, store.Key{Kind: kindSaved, ID: fmt.Sprint(client)})
}

func sharedKeys() []store.Key {
	var keys []store.Key
	for i := range sharedEntities {
		keys = append(keys, store.Key{Kind: kindEvents, ID: fmt.Sprintf("shared-%d", i)})
	}
	return keys
}

// allKeys returns the entities that the given number of clients work on.
func allKeys(clients int) []store.Key {
	keys := sharedKeys()
	for i := range clients {
		keys = append(keys, ownKeys(i)...)
	}
	return keys
}

// versionOf returns the version of an entity, as the log has it now.
func versionOf(ctx context.Context, log store.Log, key store.Key) (v store.Version, err error) {
	for e, err := range log.Load(ctx, key, func(s *store.State) bool {
		v = s.Version
		return true
	}) {
		if err != nil {
			return 0, err
		}
		v = e.Version
	}
	return v, nil
}

// newClients returns the clients of one life, with the versions that the log has now.
func newClients(ctx context.Context, log store.Log, life, clients int, seed uint64) ([]*client, error) {
	shared := &sharedVersions{keys: sharedKeys(), versions: map[store.Key]store.Version{}}
	all := make([]*client, clients)
	for i := range all {
		all[i] = &client{
			life: life, number: i, own: ownKeys(i), shared: shared,
			random:   rand.New(rand.NewPCG(seed, uint64(life)<<32|uint64(i))),
			versions: map[store.Key]store.Version{}, claims: map[store.Key][]name{},
		}
	}
	for _, key := range allKeys(clients) {
		v, err := versionOf(ctx, log, key)
		if err != nil {
			return nil, err
		}
		shared.versions[key] = v
		for _, c := range all {
			c.versions[key] = v
		}
	}
	return all, nil
}

func (c *client) often(odds int) bool { return c.random.IntN(odds) == 0 }

// plan returns the next command.
func (c *client) plan() *command {
	c.commands++
	cmd := &command{Life: c.life, Client: c.number, Number: c.commands}
	if c.often(5) {
		key := c.shared.keys[c.random.IntN(len(c.shared.keys))]
		p := c.events(key, c.shared.get(key))
		p.Shared = true
		cmd.Parts = []part{p}
		return cmd
	}
	versions := map[store.Key]store.Version{}
	for range 1 + c.random.IntN(groupMax) {
		key := c.own[c.random.IntN(len(c.own))]
		if _, ok := versions[key]; !ok {
			versions[key] = c.versions[key]
		}
		p := c.change(key, versions[key])
		versions[key] = p.next()
		cmd.Parts = append(cmd.Parts, p)
	}
	if len(c.messages) > keptMessagesMax/2 {
		cmd.Parts = append(cmd.Parts, part{Settle: c.take(), Checkpoint: true})
	}
	return cmd
}

// change plans a batch for an entity of the client.
func (c *client) change(key store.Key, at store.Version) part {
	if key.Kind == kindSaved {
		p := part{Key: key, Expected: at, Save: true}
		c.decorate(&p)
		return p
	}
	p := c.events(key, at)
	if c.often(12) && at > 0 {
		p.Sizes = nil // a command with a reply and no event
		p.Receipt = true
	}
	p.Snapshot = c.often(6) && p.next() > 0
	c.decorate(&p)
	return p
}

func (c *client) events(key store.Key, at store.Version) part {
	p := part{Key: key, Expected: at}
	for range 1 + c.random.IntN(eventsMax) {
		size := c.random.IntN(payloadBytesMax)
		if c.often(largeOdds) {
			size = largeBytes
		}
		p.Sizes = append(p.Sizes, size)
	}
	p.Receipt = !c.often(4)
	return p
}

// decorate adds the records other than events and states: receipts, messages, timers,
// settlements, checkpoints and claims.
func (c *client) decorate(p *part) {
	if p.Save {
		p.Receipt = true
	}
	if c.often(2) {
		p.Messages = 1 + c.random.IntN(2)
		p.Timer = c.often(3)
	}
	if c.often(4) {
		p.Checkpoint = true
	}
	if c.often(3) {
		p.Claim = true
		if held := c.claims[p.Key]; len(held) > keptClaimsMax {
			p.Release = []name{held[0]}
			c.claims[p.Key] = held[1:]
		}
	}
}

// take returns some of the remembered messages to settle, and forgets them.
func (c *client) take() []taken {
	n := 1 + c.random.IntN(len(c.messages))
	some := c.messages[:n:n]
	c.messages = c.messages[n:]
	return some
}

// learn updates the client's versions, messages and claims with the results of a command.
func (c *client) learn(cmd *command, results []store.Result) {
	for i, r := range results {
		p := &cmd.Parts[i]
		if conflict, ok := errors.AsType[*store.ConflictError](r.Err); ok && p.Shared {
			c.shared.moved(p.Key, conflict.Actual)
		}
		if r.Err != nil {
			continue
		}
		if p.Shared {
			c.shared.moved(p.Key, p.next())
		} else if !p.Key.IsZero() {
			c.versions[p.Key] = p.next()
		}
		n := cmd.name(i)
		for j := range p.Messages {
			t := taken{Sequence: r.Sequence - uint64(p.Messages-1-j), Message: n.of("message", j)}
			if len(c.messages) < keptMessagesMax && c.often(2) {
				c.messages = append(c.messages, t)
			}
		}
		if p.Claim {
			c.claims[p.Key] = append(c.claims[p.Key], n)
		}
	}
}

// commit plans and commits the next command, and writes it to the journal before and after.
// The error is an error of the journal; an error of Commit is in the outcome.
func (c *client) commit(ctx context.Context, log store.Log, j *journal) (*command, *outcome, error) {
	cmd := c.plan()
	if err := j.begin(cmd); err != nil {
		return nil, nil, err
	}
	results, err := log.Commit(ctx, cmd.batches())
	o := &outcome{Life: cmd.Life, Client: cmd.Client, Number: cmd.Number}
	if err != nil {
		o.Error, o.NotStored, o.Broken = err.Error(), errors.Is(err, store.ErrNotStored), errors.Is(err, store.ErrBroken)
		return cmd, o, j.end(o)
	}
	for _, r := range results {
		o.Results = append(o.Results, result{Position: r.Position, Sequence: r.Sequence})
		if r.Err != nil {
			o.Results[len(o.Results)-1].Refused = r.Err.Error()
		}
	}
	c.learn(cmd, results)
	return cmd, o, j.end(o)
}
