package crashtest

import (
	"context"
	"fmt"
	"slices"

	"github.com/perdure/perdure/store"
)

// An image holds all records of a log that the workload can have written.
type image struct {
	heads       []store.Position
	events      map[name]*store.Event // by the name that the payload begins with
	positions   []*store.Event        // all events, by partition and position
	versions    map[store.Key]store.Version
	states      map[store.Key]*store.State
	receipts    map[name]*store.Receipt
	messages    map[name]*store.Message
	claims      map[name]store.Key
	checkpoints map[string]store.Position
}

// readImage reads a log. It returns the contradictions within the log as faults, and an
// error if the log cannot be read.
func readImage(ctx context.Context, log store.Log, keys []store.Key) (*image, []string, error) {
	m := &image{
		events: map[name]*store.Event{}, versions: map[store.Key]store.Version{}, states: map[store.Key]*store.State{},
		receipts: map[name]*store.Receipt{}, messages: map[name]*store.Message{}, claims: map[name]store.Key{},
		checkpoints: map[string]store.Position{},
	}
	var f faults
	if err := m.readPartitions(ctx, log, &f); err != nil {
		return nil, f.all, err
	}
	for _, key := range keys {
		if err := m.readEntity(ctx, log, key, &f); err != nil {
			return nil, f.all, err
		}
	}
	err := m.readRest(ctx, log, keys, &f)
	return m, f.all, err
}

// readPartitions reads the events in the order of the log. It checks that positions have no
// gap and that the heads are the positions of the last events.
func (m *image) readPartitions(ctx context.Context, log store.Log, f *faults) (err error) {
	if m.heads, err = log.Heads(ctx); err != nil {
		return err
	}
	for p, head := range m.heads {
		last := store.NewPosition(p, 0)
		for e, err := range log.Scan(ctx, store.Query{After: last}) {
			if err != nil {
				return err
			}
			if e.Position != last+1 {
				f.addf("partition %d: position %v comes after %v", p, e.Position, last)
			}
			last = e.Position
			e = e.Clone()
			m.positions = append(m.positions, e)
			n := nameOf(e.Payload)
			if first := m.events[n]; first != nil {
				f.addf("event %s is stored twice, at positions %v and %v", n, first.Position, e.Position)
			}
			m.events[n] = e
			if want := m.versions[e.Key] + 1; e.Version != want {
				f.addf("%v: version %d is at position %v, where version %d is due", e.Key, e.Version, e.Position, want)
			}
			m.versions[e.Key] = e.Version
		}
		if last != head {
			f.addf("partition %d: head is %v, the last event is at %v", p, head, last)
		}
	}
	return nil
}

// readEntity reads the events of one entity and compares them with its events in the
// partitions.
func (m *image) readEntity(ctx context.Context, log store.Log, key store.Key, f *faults) error {
	at := store.Version(0)
	for e, err := range log.Read(ctx, key, 0) {
		if err != nil {
			return err
		}
		at++
		if e.Version != at {
			f.addf("%v: read version %d where version %d is due", key, e.Version, at)
		}
		if other := m.events[nameOf(e.Payload)]; other == nil || other.Position != e.Position || other.Version != e.Version || other.Key != key {
			f.addf("%v: version %d at position %v, %s, is not in the partition", key, e.Version, e.Position, nameOf(e.Payload))
		}
	}
	if at != m.versions[key] {
		f.addf("%v: read ends at version %d, the partition has %d", key, at, m.versions[key])
	}
	loaded := store.Version(0)
	for e, err := range log.Load(ctx, key, func(s *store.State) bool {
		m.states[key] = s.Clone()
		loaded = s.Version
		return true
	}) {
		if err != nil {
			return err
		}
		if loaded++; e.Version != loaded {
			f.addf("%v: loaded version %d where version %d is due", key, e.Version, loaded)
			loaded = e.Version
		}
	}
	if key.Kind == kindSaved {
		m.versions[key] = loaded
	} else if loaded != at {
		f.addf("%v: load ends at version %d, read at %d", key, loaded, at)
	}
	return nil
}

func (m *image) readRest(ctx context.Context, log store.Log, keys []store.Key, f *faults) error {
	for _, key := range keys {
		for r, err := range log.Receipts(ctx, key) {
			if err != nil {
				return err
			}
			m.receipts[name(r.Name)] = r
		}
	}
	for r, err := range log.Messages(ctx, store.MessageQuery{}) {
		if err != nil {
			return err
		}
		n := nameOf(r.Payload)
		if m.messages[n] != nil {
			f.addf("message %s is stored twice", n)
		}
		m.messages[n] = r
	}
	for c, err := range log.Claims(ctx, claimSpace) {
		if err != nil {
			return err
		}
		m.claims[name(c.Claim.Value)] = c.Owner
	}
	all, err := log.Checkpoints(ctx)
	if err != nil {
		return err
	}
	for _, b := range all {
		m.checkpoints[b.Name] = b.Position
	}
	return m.readCatalog(ctx, log, keys, f)
}

// readCatalog compares the catalog with the entities.
func (m *image) readCatalog(ctx context.Context, log store.Log, keys []store.Key, f *faults) error {
	listed := map[store.Key]store.Version{}
	for _, kind := range []string{kindEvents, kindSaved} {
		for e, err := range log.Entities(ctx, kind, "") {
			if err != nil {
				return err
			}
			listed[e.Key] = e.Version
			if !slices.Contains(keys, e.Key) {
				f.addf("catalog: %v is not of the workload", e.Key)
			}
		}
	}
	for _, key := range keys {
		if listed[key] != m.versions[key] {
			f.addf("catalog: %v is at version %d, its events say %d", key, listed[key], m.versions[key])
		}
	}
	return nil
}

// faultsMax bounds the number of faults in one report; the first few say enough.
const faultsMax = 12

// faults collects descriptions of faults.
type faults struct {
	all  []string
	more int
}

func (f *faults) addf(format string, args ...any) {
	if len(f.all) >= faultsMax {
		f.more++
		return
	}
	f.all = append(f.all, fmt.Sprintf(format, args...))
}
