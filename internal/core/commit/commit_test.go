package commit_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/perdure/perdure/internal/core/commit"
	"github.com/perdure/perdure/store"
)

var errIO = errors.New("input/output error")

// item returns an item of a pipeline. Its version identifies it.
func item(pipeline *commit.Pipeline, version, payload int) *commit.Item {
	return &commit.Item{Pipeline: pipeline, Batch: store.Batch{
		Key:      store.Key{Kind: "account", ID: "ada"},
		Expected: store.Version(version),
		Events:   []store.Event{{Payload: make([]byte, payload)}},
	}}
}

// versions returns the versions that the batches expect. They identify the batches.
func versions(batches []*store.Batch) (v []int) {
	for _, b := range batches {
		v = append(v, int(b.Expected))
	}
	return v
}

// accept returns results for batches that are all stored.
func accept(batches []*store.Batch) []store.Result { return make([]store.Result, len(batches)) }

// outcome describes the outcome of an item.
func outcome(i *commit.Item) string {
	var conflict *store.ConflictError
	switch {
	case errors.Is(i.Err, store.ErrNotStored):
		return "not stored"
	case i.Err != nil:
		return "unknown"
	case errors.As(i.Result.Err, &conflict) && conflict.AfterRefused:
		return "behind"
	case i.Result.Err != nil:
		return "refused"
	}
	return "stored"
}

func outcomes(items []*commit.Item) (out []string) {
	for _, i := range items {
		out = append(out, outcome(i))
	}
	return out
}

func TestQueueKeepsTheOrder(t *testing.T) {
	t.Parallel()
	var q commit.Queue
	var pipeline commit.Pipeline
	if got := q.Take(); got != nil {
		t.Errorf("take of an empty queue: got %d, want nothing", versions(got))
	}
	for v := range 5 {
		q.Add(item(&pipeline, v, 1))
	}
	first := q.Take()
	if got, want := versions(first), []int{0, 1, 2, 3, 4}; !slices.Equal(got, want) {
		t.Errorf("first group: got %d, want %d", got, want)
	}
	q.Add(item(&pipeline, 5, 1))
	q.Add(item(&pipeline, 6, 1))
	if got := q.Take(); got != nil {
		t.Errorf("take while a group is at the store: got %d, want nothing", versions(got))
	}
	if got := q.Len(); got != 2 {
		t.Errorf("items that wait: got %d, want 2", got)
	}
	if got := len(q.Group()); got != 5 {
		t.Errorf("items at the store: got %d, want 5", got)
	}
	q.Complete(accept(first), nil)
	if got, want := versions(q.Take()), []int{5, 6}; !slices.Equal(got, want) {
		t.Errorf("second group: got %d, want %d", got, want)
	}
	if got := q.Len(); got != 0 {
		t.Errorf("items that wait at the end: got %d, want 0", got)
	}
}

func TestGroupIsBounded(t *testing.T) {
	t.Parallel()
	const half = commit.GroupBytesMax/2 - 1<<10 // minus the size of a record without its payload
	for _, c := range []struct {
		name     string
		payloads []int
		want     []int // sizes of the groups
	}{
		{"by items", make([]int, 2*commit.GroupItemsMax+3), []int{commit.GroupItemsMax, commit.GroupItemsMax, 3}},
		{"by bytes", []int{half, half, 4 << 10, half, half}, []int{2, 2, 1}},
		{"but for one item that is too large", []int{1, 2 * commit.GroupBytesMax, 1}, []int{1, 1, 1}},
	} {
		var q commit.Queue
		var pipeline commit.Pipeline
		for v, n := range c.payloads {
			q.Add(item(&pipeline, v, n))
		}
		var got []int
		for b := q.Take(); b != nil; b = q.Take() {
			got = append(got, len(b))
			q.Complete(accept(b), nil)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("groups of %d items bounded %s: got sizes %d, want %d", len(c.payloads), c.name, got, c.want)
		}
	}
}

func TestGroupBoundCountsEveryPartOfABatch(t *testing.T) {
	t.Parallel()
	large := make([]byte, commit.GroupBytesMax)
	for name, b := range map[string]store.Batch{
		"a state to save": {Save: &store.State{Payload: large}},
		"a snapshot":      {Snapshot: &store.State{Payload: large}},
		"a message":       {Enqueue: []store.Message{{Payload: large}}},
	} {
		var q commit.Queue
		var pipeline commit.Pipeline
		q.Add(item(&pipeline, 0, 1))
		q.Add(&commit.Item{Batch: b, Pipeline: &pipeline})
		if got := len(q.Take()); got != 1 {
			t.Errorf("group of an event and %s of %d bytes: got %d items, want 1", name, len(large), got)
		}
	}
}

func TestPipelineRefusesBatchesBehindAFailedOne(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		results []store.Result // results of a group of two items of one pipeline and one of another
		err     error
		want    []string // outcomes of these items, then of two more of the pipeline and one of the other
	}{
		{
			"a conflict",
			[]store.Result{{Err: &store.ConflictError{}}, {Err: &store.ConflictError{AfterRefused: true}}, {}},
			nil,
			[]string{"refused", "behind", "stored", "behind", "behind", "stored"},
		},
		{
			"an unknown outcome", nil, errIO,
			[]string{"unknown", "unknown", "unknown", "behind", "behind", "behind"},
		},
		{
			"a group that is not stored", nil, store.ErrNotStored,
			[]string{"not stored", "not stored", "not stored", "behind", "behind", "behind"},
		},
		{
			"a store that stores behind a refused batch",
			[]store.Result{{Err: store.ErrTooLarge}, {}, {}},
			nil,
			[]string{"refused", "unknown", "stored", "behind", "behind", "stored"},
		},
		{
			"too few results",
			[]store.Result{{}, {}},
			nil,
			[]string{"unknown", "unknown", "unknown", "behind", "behind", "behind"},
		},
		{
			"too many results", make([]store.Result, 4), nil,
			[]string{"unknown", "unknown", "unknown", "behind", "behind", "behind"},
		},
	} {
		var q commit.Queue
		var pipeline, other commit.Pipeline
		items := []*commit.Item{
			item(&pipeline, 0, 1), item(&pipeline, 1, 1), item(&other, 2, 1), item(&pipeline, 3, 1), item(&pipeline, 4, 1), item(&other, 5, 1),
		}
		for _, i := range items[:3] {
			q.Add(i)
		}
		q.Take()
		for _, i := range items[3:] {
			q.Add(i)
		}
		q.Complete(c.results, c.err)
		tried := q.Take()
		if tried != nil {
			q.Complete(accept(tried), nil)
		}
		if got := outcomes(items); !slices.Equal(got, c.want) {
			t.Errorf("after %s: got %q, want %q", c.name, got, c.want)
		}
		for _, b := range tried {
			if b.Expected == 3 || b.Expected == 4 {
				t.Errorf("after %s: the batch that expects %d was tried", c.name, b.Expected)
			}
		}
		// A pipeline can be used again after a reset.
		pipeline.Reset()
		again := item(&pipeline, 6, 1)
		q.Add(again)
		if b := q.Take(); b == nil {
			t.Errorf("after %s and a reset: the pipeline is not tried", c.name)
		} else {
			q.Complete(accept(b), nil)
		}
		if got := outcome(again); got != "stored" {
			t.Errorf("after %s and a reset: got %q, want stored", c.name, got)
		}
	}
}

func TestPipelineOwnerIsCalledOnceForItsItems(t *testing.T) {
	t.Parallel()
	var q commit.Queue
	pipelines := make([]commit.Pipeline, 3)
	for v, l := range []int{1, 0, 1, 1, 2} {
		q.Add(item(&pipelines[l], v, 1))
	}
	q.Complete(accept(q.Take()), nil)
	want := []commit.Completed{{Pipeline: &pipelines[1], Items: 3}, {Pipeline: &pipelines[0], Items: 1}, {Pipeline: &pipelines[2], Items: 1}}
	if got := q.Completed(nil); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := q.Completed(nil); len(got) > 0 {
		t.Errorf("for the second time: got %v, want nothing", got)
	}
}

func TestItemAloneGetsItsOutcome(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		results []store.Result
		err     error
		want    string
	}{
		{[]store.Result{{Position: 7}}, nil, "stored"},
		{[]store.Result{{Err: &store.ConflictError{}}}, nil, "refused"},
		{nil, errIO, "unknown"},
		{nil, store.ErrNotStored, "not stored"},
		{nil, nil, "unknown"},
		{make([]store.Result, 2), nil, "unknown"},
	} {
		i := item(&commit.Pipeline{}, 3, 1)
		if got := versions(i.Alone()); !slices.Equal(got, []int{3}) {
			t.Errorf("group of one: got %d, want [3]", got)
		}
		i.Complete(c.results, c.err)
		if got := outcome(i); got != c.want {
			t.Errorf("completed with %v and %v: got %q, want %q", c.results, c.err, got, c.want)
		}
		if got, want := i.Failed(), c.want != "stored"; got != want {
			t.Errorf("completed with %v and %v: got failed %t, want %t", c.results, c.err, got, want)
		}
	}
}

// TestQueueKeepsItsInvariants adds, takes and completes items at random, and
// compares the results with the invariants of Queue.
func TestQueueKeepsItsInvariants(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		if fault := play(rand.New(rand.NewPCG(seed, 0))); fault != "" {
			t.Fatalf("seed %d: %s", seed, fault)
		}
	}
}

func play(random *rand.Rand) (fault string) {
	var q commit.Queue
	pipelines := make([]commit.Pipeline, 4)
	open := make([][]*commit.Item, len(pipelines)) // items by pipeline that were added and have no outcome yet
	failed := make([]bool, len(pipelines))         // an open item of the pipeline has failed
	added, next := 0, 0
	var batches []*store.Batch
	hear := func() {
		for _, s := range q.Completed(nil) {
			n := 0
			for s.Pipeline != &pipelines[n] {
				n++
			}
			for _, i := range open[n][:s.Items] {
				switch out := outcome(i); {
				case failed[n] && out == "stored":
					fault = fmt.Sprintf("item %d is stored behind a failed one", i.Batch.Expected)
				case out != "stored":
					failed[n] = true
				}
			}
			if open[n] = open[n][s.Items:]; len(open[n]) == 0 && failed[n] {
				pipelines[n].Reset()
				failed[n] = false
			}
		}
	}
	for step := 0; fault == "" && (step < 300 || q.Len() > 0 || batches != nil); step++ {
		switch x := random.IntN(10); {
		case x < 5 && step < 300:
			n := random.IntN(len(pipelines))
			i := item(&pipelines[n], added, random.IntN(100))
			added++
			open[n] = append(open[n], i)
			q.Add(i)
		case batches == nil:
			batches = q.Take()
			hear()
			for _, b := range batches {
				if int(b.Expected) < next {
					return fmt.Sprintf("item %d is taken after item %d", b.Expected, next)
				}
				next = int(b.Expected)
			}
		case random.IntN(8) == 0:
			q.Complete(nil, errIO)
			batches = nil
			hear()
		default:
			results := accept(batches)
			refused := make(map[*commit.Pipeline]bool)
			for n, i := range q.Group() {
				if random.IntN(6) == 0 || refused[i.Pipeline] {
					results[n].Err = &store.ConflictError{AfterRefused: refused[i.Pipeline]}
					refused[i.Pipeline] = true
				}
			}
			q.Complete(results, nil)
			batches = nil
			hear()
		}
	}
	for n := range open {
		if len(open[n]) > 0 && fault == "" {
			fault = fmt.Sprintf("%d items of pipeline %d never got an outcome", len(open[n]), n)
		}
	}
	return fault
}

func TestGather(t *testing.T) {
	t.Parallel()
	var pipeline commit.Pipeline
	add := func(q *commit.Queue, n int) {
		for range n {
			q.Add(item(&pipeline, 0, 1))
		}
	}
	// after returns a queue whose last group had 100 items, while 20 more came.
	after := func() *commit.Queue {
		var q commit.Queue
		add(&q, 100)
		group := q.Take()
		add(&q, 20)
		q.Complete(accept(group), nil)
		return &q
	}
	for _, c := range []struct {
		name string
		q    *commit.Queue
		come []int // items that come in each turn
		want int   // turns in which the committer waits for another one
	}{
		{"waits while callers of the last group come back", after(), []int{40, 40, 19, 1}, 3},
		{"waits no longer if a turn brings nothing", after(), []int{40, 0, 60}, 1},
		{"waits for nothing if nothing comes at first", after(), []int{0, 100}, 0},
		{"does not wait in an empty queue", new(commit.Queue), []int{0, 1}, 0},
		{"does not wait for others of a single caller", func() *commit.Queue {
			var q commit.Queue
			add(&q, 1)
			q.Complete(accept(q.Take()), nil)
			return &q
		}(), []int{1, 1}, 0},
		{"does not wait for a group above the bound", func() *commit.Queue {
			var q commit.Queue
			add(&q, commit.GroupItemsMax)
			group := q.Take()
			add(&q, commit.GroupItemsMax-1)
			q.Complete(accept(group), nil)
			return &q
		}(), []int{1, 1}, 0},
		{"forgets the last group when the queue is empty", func() *commit.Queue {
			q := after()
			q.Complete(accept(q.Take()), nil)
			q.Take()
			return q
		}(), []int{1, 1}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := 0
			for _, n := range c.come {
				add(c.q, n)
				if !c.q.Gather() {
					break
				}
				got++
			}
			if got != c.want {
				t.Errorf("turns that the committer waits: got %d, want %d", got, c.want)
			}
		})
	}
}
