package actor_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/perdure/perdure/actor"
)

// around returns a middleware that records each message that it sees.
func around(log *diary, name string, inherit bool) actor.Middleware {
	return actor.Middleware{
		Receive: func(d actor.Envelope, next func()) {
			log.write(name, "before", d.Actor.Name())
			next()
			log.write(name, "after", d.Actor.Name())
		},
		Send: func(d actor.Envelope, next func() error) error {
			log.write(name, "sends to", d.To.Name())
			return next()
		},
		Inherit: inherit,
	}
}

func TestMiddlewareIsAroundReceiveAndSend(t *testing.T) {
	t.Parallel()
	var log diary
	s := newSystem(t, actor.Config{Middleware: []actor.Middleware{around(&log, "config", true)}})
	back, err := actor.Spawn(s, "back", actor.Func[request](func(_ *actor.Context[request], m request) { m.reply.Send(m.n) }))
	if err != nil {
		t.Fatal(err)
	}
	front, err := actor.Spawn(s, "front", actor.Func[request](func(c *actor.Context[request], m request) {
		log.write("handles")
		if err := actor.Forward(c, back, m); err != nil {
			t.Errorf("Forward: %v", err)
		}
	}), actor.Use(around(&log, "outer", false)), actor.Use(around(&log, "inner", true)))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := actor.Ask(t.Context(), front, asking(7)); got != 7 || err != nil {
		t.Errorf("Ask = %d, %v; want 7", got, err)
	}
	shutdown(t, s)
	want := []string{
		"config before front", "outer before front", "inner before front", "handles",
		"config sends to back", "outer sends to back", "inner sends to back",
	}
	lines := log.read()
	if len(lines) != 12 || !slices.Equal(lines[:7], want) {
		t.Errorf("got  %v\nwant %v and five more", lines, want)
	}
}

func TestChildrenInheritWhatIsToBeInherited(t *testing.T) {
	t.Parallel()
	var log, own diary
	s := newSystem(t, actor.Config{})
	parent := spawn(t, s, &do{log: &own}, actor.Use(around(&log, "handed on", true)), actor.Use(around(&log, "kept", false)))
	var grandchild actor.Ref[int]
	run(t, parent, func(c *actor.Context[task]) {
		child := spawn(t, c, &do{log: &own}, actor.Use(around(&log, "added", true)))
		tell(t, child, func(c *actor.Context[task]) {
			r, err := actor.Spawn(c, "grandchild", newProbe())
			if err != nil {
				t.Errorf("Spawn: %v", err)
			}
			tell(t, r, 1)
			grandchild = r
			c.Stop()
		})
	})
	shutdown(t, s)
	var got []string
	for _, line := range log.read() {
		if line == "handed on before grandchild" || line == "added before grandchild" || line == "kept before grandchild" {
			got = append(got, line)
		}
	}
	if want := []string{"handed on before grandchild", "added before grandchild"}; !slices.Equal(got, want) || grandchild.Name() != "grandchild" {
		t.Errorf("around the grandchild are %v, want %v", got, want)
	}
}

func TestMiddlewareMayHoldMessagesBack(t *testing.T) {
	t.Parallel()
	p := newProbe()
	refusal := errors.New("not today")
	s := newSystem(t, actor.Config{})
	r := spawn(t, s, p, actor.Use(actor.Middleware{Receive: func(d actor.Envelope, next func()) {
		if d.Message.(int) > 1 {
			next()
		}
	}}))
	sender := spawn(t, s, actor.Func[chan error](func(c *actor.Context[chan error], m chan error) { m <- actor.Tell(c, r, 1) }),
		actor.Use(actor.Middleware{Send: func(actor.Envelope, func() error) error { return refusal }}))
	for i := range 4 {
		tell(t, r, i)
	}
	for want := 2; want < 4; want++ {
		if got := await(t, "a message", p.got); got != want {
			t.Errorf("got %d, want %d", got, want)
		}
	}
	patient := spawn(t, s, actor.Func[chan error](func(c *actor.Context[chan error], m chan error) { m <- actor.Tell(c, r, 4) }),
		actor.Use(actor.Middleware{Send: func(_ actor.Envelope, next func() error) error { return next() }}))
	errs := make(chan error, 1)
	tell(t, patient, errs)
	if err := await(t, "the answer of Tell", errs); err != nil {
		t.Errorf("Tell: %v", err)
	}
	if got := await(t, "the message of Tell", p.got); got != 4 {
		t.Errorf("got %d, want 4", got)
	}
	tell(t, sender, errs)
	if err := await(t, "the refusal", errs); !errors.Is(err, refusal) {
		t.Errorf("Tell: %v, want %v", err, refusal)
	}
	r.Signal() // a signal does not go through the middleware
	await(t, "the signal", p.signals)
}

func TestMiddlewareStaysAroundARestart(t *testing.T) {
	t.Parallel()
	var log diary
	r, err := actor.SpawnFrom(newSystem(t, actor.Config{}), "cell", func() actor.Behavior[int] {
		return actor.Func[int](func(_ *actor.Context[int], m int) {
			log.write(fmt.Sprint(m))
			if m == 1 {
				panic("ill")
			}
		})
	}, actor.Use(around(&log, "w", false)))
	if err != nil {
		t.Fatal(err)
	}
	tell(t, r, 1)
	tell(t, r, 2)
	r.Stop()
	stopped(t, r)
	if got, want := log.read(), []string{"w before cell", "1", "w before cell", "2", "w after cell"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
