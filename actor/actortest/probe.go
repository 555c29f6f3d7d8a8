package actortest

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perdure/perdure/actor"
)

// KeptMax bounds the messages that a [Probe] keeps and the test has not taken yet. One more
// message fails the test.
const KeptMax = 1 << 16

// A Probe is an actor that keeps its messages for the test. Only the goroutine of the test
// may call its methods.
type Probe[M any] struct {
	t    testing.TB
	ref  actor.Ref[M]
	mu   sync.Mutex
	kept []M
	more chan struct{} // holds a token after a message has come
}

// NewProbe spawns a probe without a name.
func NewProbe[M any](t testing.TB, parent actor.Parent) *Probe[M] {
	t.Helper()
	p := &Probe[M]{t: t, more: make(chan struct{}, 1)}
	ref, err := actor.Spawn(parent, "", actor.Func[M](p.keep), actor.MailboxMax(KeptMax))
	if err != nil {
		t.Fatalf("spawn a probe: %v", err)
	}
	p.ref = ref
	return p
}

func (p *Probe[M]) keep(_ *actor.Context[M], m M) {
	p.mu.Lock()
	full := len(p.kept) >= KeptMax
	if !full {
		p.kept = append(p.kept, m)
	}
	p.mu.Unlock()
	if full {
		p.t.Errorf("probe keeps %d messages already and loses %v", KeptMax, m)
	}
	select {
	case p.more <- struct{}{}:
	default:
	}
}

// Ref returns the ref of the probe.
func (p *Probe[M]) Ref() actor.Ref[M] { return p.ref }

// Got returns the messages that have come and that no call has returned yet. It does not
// wait.
func (p *Probe[M]) Got() []M {
	p.mu.Lock()
	defer p.mu.Unlock()
	got := p.kept
	p.kept = nil
	return got
}

// take returns the next message if there is one.
func (p *Probe[M]) take() (m M, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.kept) == 0 {
		return m, false
	}
	m = p.kept[0]
	p.kept = p.kept[1:]
	return m, true
}

// within returns the next message, if one comes within the duration.
func (p *Probe[M]) within(d time.Duration) (M, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return p.before(ctx)
}

// before returns the next message, if one comes before ctx ends.
func (p *Probe[M]) before(ctx context.Context) (m M, ok bool) {
	for {
		if m, ok = p.take(); ok {
			return m, true
		}
		select {
		case <-p.more:
		case <-ctx.Done():
			return m, false
		}
	}
}

// Next waits for a message and returns it. It fails the test after [Patience].
func (p *Probe[M]) Next() M {
	p.t.Helper()
	m, ok := p.within(Patience)
	if !ok {
		p.t.Fatalf("waited %v for a message", Patience)
	}
	return m
}

// Expect waits for messages and compares them with want, in order, as [reflect.DeepEqual]
// does.
func (p *Probe[M]) Expect(want ...M) {
	p.t.Helper()
	for i, w := range want {
		m, ok := p.within(Patience)
		if !ok {
			p.t.Fatalf("waited %v for message %d of %d, %+v", Patience, i+1, len(want), w)
		}
		if !reflect.DeepEqual(m, w) {
			p.t.Fatalf("message %d of %d is %+v, want %+v", i+1, len(want), m, w)
		}
	}
}

// ExpectNone fails the test if a message is there or comes within the time d.
// In a bubble of testing/synctest that takes no real time.
func (p *Probe[M]) ExpectNone(d time.Duration) {
	p.t.Helper()
	if m, ok := p.within(d); ok {
		p.t.Fatalf("got message %+v, want none", m)
	}
}

// Fish waits for a message that match accepts and returns it. It drops the messages before
// it.
func (p *Probe[M]) Fish(match func(M) bool) M {
	p.t.Helper()
	return fish(p.t, "message", p.before, match)
}

// fish waits for a value that match accepts.
func fish[M any](t testing.TB, what string, next func(context.Context) (M, bool), match func(M) bool) M {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	var seen []string
	for {
		m, ok := next(ctx)
		if !ok {
			t.Fatalf("waited %v for a certain %s and saw only: %s", Patience, what, strings.Join(seen, "; "))
		}
		if match(m) {
			return m
		}
		seen = append(seen, fmt.Sprintf("%+v", m))
	}
}
