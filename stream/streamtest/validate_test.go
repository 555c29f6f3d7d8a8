package streamtest_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/stream"
	"github.com/perdure/perdure/stream/streamtest"
)

// filled returns a log with commits of one to three events of several entities.
func filled(t testing.TB, partitions int) *memory.Log {
	t.Helper()
	log := memory.New(memory.WithPartitions(partitions))
	var ids uint64
	versions := make(map[store.Key]store.Version)
	for i := range 40 {
		key := store.Key{Kind: "book", ID: fmt.Sprint(i % 7)}
		b := &store.Batch{Key: key, Expected: versions[key]}
		for range i%3 + 1 {
			ids++
			e := store.Event{Type: "test.v1.Happened"}
			binary.BigEndian.PutUint64(e.ID[:], ids)
			b.Events = append(b.Events, e)
		}
		results, err := log.Commit(t.Context(), []*store.Batch{b})
		if err != nil || results[0].Err != nil {
			t.Fatal(err, results)
		}
		versions[key] = b.Next()
	}
	return log
}

// A consumer takes the commits of each partition in two sessions, the first of which
// crashes after it has got more commits than it has saved. Each field that is set
// breaks it in one way.
type consumer struct {
	spoil     func(commits [][]*store.Event) [][]*store.Event // changes the commits of the second session
	skipsOne  bool                                            // skips one commit after the crash
	savesSoon bool                                            // saves before it acknowledges
	savesBack bool
	savesAmid bool // saves a position within a commit
}

func (c *consumer) history(held []*store.Event) *streamtest.History {
	h := new(streamtest.History)
	parts := make(map[int][][]*store.Event)
	for _, e := range held {
		n := e.Position.Partition()
		commits := parts[n]
		if len(commits) > 0 && commits[len(commits)-1][0].CommitEnd() == e.CommitEnd() {
			commits[len(commits)-1] = append(commits[len(commits)-1], e)
		} else {
			commits = append(commits, []*store.Event{e})
		}
		parts[n] = commits
	}
	for n, commits := range parts {
		c.consume(h, n, commits)
	}
	return h
}

func (c *consumer) consume(h *streamtest.History, partition int, commits [][]*store.Event) {
	at := store.NewPosition(partition, 0)
	h.Began(at)
	const saved = 5 // number of commits that the first session saves
	for i, commit := range commits[:saved+3] {
		each(commit, h.Got)
		if i < saved {
			each(commit, h.Acked)
			at = commit[0].CommitEnd()
		}
	}
	h.Got(commits[saved+3][0]) // the session crashes within this commit, if it has more events
	h.Saved(at)
	rest := commits[saved:]
	if c.skipsOne {
		h.Began(rest[0][0].CommitEnd())
		rest = rest[1:]
	} else {
		h.Began(at)
	}
	if c.spoil != nil {
		rest = c.spoil(slices.Clone(rest))
	}
	for i, commit := range rest {
		if c.savesSoon && i == 4 {
			h.Saved(commit[0].CommitEnd())
		}
		if i == 6 { // this commit is refused once
			each(commit, h.Got)
			each(commit, h.Refused)
		}
		each(commit, h.Got)
		each(commit, h.Acked)
		if c.savesAmid && len(commit) == 3 {
			h.Saved(commit[1].Position)
		}
		h.Saved(commit[len(commit)-1].CommitEnd())
	}
	if c.savesBack {
		h.Saved(at)
	}
}

func each(events []*store.Event, do func(*store.Event)) {
	for _, e := range events {
		do(e)
	}
}

// longest returns the index of the first commit of three events from the third on.
func longest(commits [][]*store.Event) int {
	return 2 + slices.IndexFunc(commits[2:], func(c []*store.Event) bool { return len(c) == 3 })
}

var promises = []struct {
	name  string
	check func(*streamtest.History, []*store.Event) error
}{
	{"ordered", streamtest.Ordered},
	{"unique", streamtest.Unique},
	{"atomic", streamtest.Atomic},
	{"reliable", streamtest.Reliable},
	{"resumable", streamtest.Resumable},
	{"checkpointed", streamtest.Checkpointed},
}

func TestBrokenConsumersAreCaught(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name     string
		consumer consumer
		broken   string // the promises that the consumer breaks
	}{
		{"none", consumer{}, ""},
		{"takes two commits in the wrong order", consumer{spoil: func(c [][]*store.Event) [][]*store.Event {
			c[3], c[4] = c[4], c[3]
			return c
		}}, "ordered checkpointed"},
		{"takes two events of a commit in the wrong order", consumer{spoil: func(c [][]*store.Event) [][]*store.Event {
			i := longest(c)
			c[i] = []*store.Event{c[i][1], c[i][0], c[i][2]}
			return c
		}}, "ordered atomic"},
		{"takes a commit twice", consumer{spoil: func(c [][]*store.Event) [][]*store.Event {
			return slices.Insert(c, 3, c[2])
		}}, "unique"},
		{"takes an event under another id", consumer{spoil: func(c [][]*store.Event) [][]*store.Event {
			e := c[0][0].Clone() // the first session has got the event unchanged
			e.ID[0]++
			c[0] = append([]*store.Event{e}, c[0][1:]...)
			return c
		}}, "unique reliable"},
		{"misses the middle of a commit", consumer{spoil: func(c [][]*store.Event) [][]*store.Event {
			i := longest(c[4:]) + 4 // a commit that the first session has not got
			c[i] = []*store.Event{c[i][0], c[i][2]}
			return c
		}}, "atomic reliable checkpointed"},
		{"misses the end of a commit", consumer{spoil: func(c [][]*store.Event) [][]*store.Event {
			i := longest(c[4:]) + 4
			c[i] = c[i][:2]
			return c
		}}, "atomic reliable checkpointed"},
		{"mixes two commits", consumer{spoil: func(c [][]*store.Event) [][]*store.Event {
			i := longest(c)
			a, b := c[i], c[i+1]
			c[i] = []*store.Event{a[0], b[0], a[1], a[2]}
			c[i+1] = b[1:]
			if len(c[i+1]) == 0 {
				c = slices.Delete(c, i+1, i+2)
			}
			return c
		}}, "ordered atomic"},
		{"misses a commit", consumer{spoil: func(c [][]*store.Event) [][]*store.Event {
			return slices.Delete(c, 5, 6)
		}}, "reliable checkpointed"},
		{"misses the last commit", consumer{spoil: func(c [][]*store.Event) [][]*store.Event {
			return c[:len(c)-1]
		}}, "reliable"},
		{"takes what the log does not hold", consumer{spoil: func(c [][]*store.Event) [][]*store.Event {
			e := c[len(c)-1][0].Clone()
			e.Position, e.Remaining, e.Version = e.Position+100, 0, e.Version+100
			e.ID[0]++
			return append(c, []*store.Event{e})
		}}, "reliable"},
		{"resumes with a gap", consumer{skipsOne: true}, "resumable checkpointed"},
		{"takes another event first", consumer{spoil: func(c [][]*store.Event) [][]*store.Event {
			return c[1:]
		}}, "resumable checkpointed"},
		{"saves before it acknowledges", consumer{savesSoon: true}, "checkpointed"},
		{"saves an older position", consumer{savesBack: true}, "checkpointed"},
		{"saves within a commit", consumer{savesAmid: true}, "atomic"},
	}
	for _, partitions := range []int{1, 2} {
		held := streamtest.Held(t, filled(t, partitions), stream.Query{})
		for _, c := range cases {
			h := c.consumer.history(held)
			var broken []string
			for _, p := range promises {
				if err := p.check(h, held); err != nil {
					t.Logf("a consumer that %s: %v", c.name, err)
					broken = append(broken, p.name)
				}
			}
			if got := strings.Join(broken, " "); got != c.broken {
				t.Errorf("a consumer that %s, %d partitions: got broken promises %q, want %q", c.name, partitions, got, c.broken)
			}
		}
	}
}

func TestConsumerThatHasNotBegunKeepsNoPromise(t *testing.T) {
	t.Parallel()
	held := streamtest.Held(t, filled(t, 1), stream.Query{})
	for _, p := range promises {
		if p.check(new(streamtest.History), held) == nil {
			t.Errorf("%s: got no error, want one that says that the history is empty", p.name)
		}
	}
}

func TestHeldIsWhatAQuerySelects(t *testing.T) {
	t.Parallel()
	log := filled(t, 2)
	key := store.Key{Kind: "book", ID: "3"}
	n := 0
	for _, err := range log.Read(t.Context(), key, 0) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if got := len(streamtest.Held(t, log, stream.Query{Keys: []store.Key{key}})); got != n || n == 0 {
		t.Errorf("got %d events of %v, want %d", got, key, n)
	}
}

func TestCheckpointsInALogPass(t *testing.T) {
	t.Parallel()
	streamtest.RunCheckpoints(t, func(testing.TB) stream.Checkpoints {
		return stream.LogCheckpoints(memory.New(memory.WithPartitions(store.PartitionsMax)))
	})
}

func TestCheckpointsElsewherePass(t *testing.T) {
	t.Parallel()
	streamtest.RunCheckpoints(t, func(testing.TB) stream.Checkpoints { return new(streamtest.Elsewhere) })
}

// An unfenced implementation of checkpoints lets every earlier owner save.
type unfenced struct{ log store.Log }

func (u unfenced) Claim(ctx context.Context, name string) (stream.CheckpointWriter, []store.Position, error) {
	_, positions, err := stream.LogCheckpoints(u.log).Claim(ctx, name)
	return unfencedOne{u.log, name}, positions, err
}

type unfencedOne struct {
	log  store.Log
	name string
}

func (u unfencedOne) Save(ctx context.Context, positions []store.Position) error {
	b := new(store.Batch)
	for _, p := range positions {
		b.Checkpoints = append(b.Checkpoints, store.Checkpoint{Name: stream.CheckpointPrefix + u.name, Position: p})
	}
	_, err := u.log.Commit(ctx, []*store.Batch{b})
	return err
}

func TestCheckpointsWithoutAFenceAreCaught(t *testing.T) {
	t.Parallel()
	failures := streamtest.WatchCheckpoints(t, unfenced{memory.New(memory.WithPartitions(store.PartitionsMax))}, "whoever has been overtaken cannot save")
	if len(failures) == 0 {
		t.Error("checkpoints that let everybody save pass")
	}
}
