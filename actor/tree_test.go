package actor_test

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/perdure/perdure/actor"
	"github.com/perdure/perdure/actor/actortest"
)

// A do is a behavior whose messages are functions, which it calls inside its turn.
type do struct {
	log     *diary
	name    string
	started func(c *actor.Context[task])
	child   func(c *actor.Context[task], t actor.Terminated)
}

// A task is a message that is a function with the context of the turn.
type task func(c *actor.Context[task])

func (d *do) Receive(c *actor.Context[task], m task) { m(c) }

func (d *do) Started(c *actor.Context[task]) {
	d.log.write(d.name, "started")
	if d.started != nil {
		d.started(c)
	}
}

func (d *do) Restarted(c *actor.Context[task], _ *actor.Failure) {
	d.log.write(d.name, "restarted")
	if d.started != nil {
		d.started(c)
	}
}

func (d *do) Stopping(*actor.Context[task], error) { d.log.write(d.name, "stopping") }

func (d *do) Stopped(error) { d.log.write(d.name, "stopped") }

func (d *do) Closed(error, []task) { d.log.write(d.name, "closed") }

func (d *do) ChildStopped(c *actor.Context[task], t actor.Terminated) {
	if d.child != nil {
		d.child(c, t)
	}
}

// A diary records lines in order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) write(words ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, strings.Join(words, " "))
}

func (d *diary) read() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.lines)
}

// run calls a function in a turn of an actor and waits until it returns.
func run(t *testing.T, r actor.Ref[task], m task) {
	t.Helper()
	done := make(chan struct{})
	tell(t, r, task(func(c *actor.Context[task]) {
		defer close(done)
		m(c)
	}))
	await(t, "a task", done)
}

// family spawns a parent with children that may have children.
func family(t *testing.T, s *actor.System, log *diary) actor.Ref[task] {
	t.Helper()
	ready := make(chan struct{}, 8)
	spawnChild := func(c *actor.Context[task], d *do) {
		if _, err := actor.Spawn(c, d.name, d); err != nil {
			t.Errorf("Spawn: %v", err)
		}
	}
	r, err := actor.Spawn(s, "parent", &do{log: log, name: "parent", started: func(c *actor.Context[task]) {
		spawnChild(c, &do{log: log, name: "leaf", started: func(*actor.Context[task]) { ready <- struct{}{} }})
		spawnChild(c, &do{log: log, name: "branch", started: func(c *actor.Context[task]) {
			spawnChild(c, &do{log: log, name: "twig", started: func(*actor.Context[task]) { ready <- struct{}{} }})
		}})
	}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		await(t, "the children to start", ready)
	}
	return r
}

func TestChildrenStopBeforeTheirParent(t *testing.T) {
	t.Parallel()
	for name, stop := range map[string]func(s *actor.System, r actor.Ref[task]){
		"Stop":     func(_ *actor.System, r actor.Ref[task]) { r.Stop() },
		"StopNow":  func(_ *actor.System, r actor.Ref[task]) { r.StopNow() },
		"Shutdown": func(s *actor.System, _ actor.Ref[task]) { shutdown(t, s) },
		"failure":  func(_ *actor.System, r actor.Ref[task]) { tell(t, r, func(*actor.Context[task]) { panic("ill") }) },
		"self":     func(_ *actor.System, r actor.Ref[task]) { tell(t, r, func(c *actor.Context[task]) { c.Stop() }) },
	} {
		var log diary
		s := newSystem(t, actor.Config{})
		r := family(t, s, &log)
		stop(s, r)
		stopped(t, r)
		lines := log.read()
		for _, order := range [][]string{
			{"parent started", "parent stopping", "parent stopped", "parent closed"},
			{"parent stopping", "leaf stopping", "leaf closed", "parent stopped"},
			{"branch stopping", "twig stopping", "twig stopped", "twig closed", "branch stopped", "branch closed", "parent stopped"},
		} {
			at := make([]int, len(order))
			for i, line := range order {
				at[i] = slices.Index(lines, line)
			}
			if !sort.IntsAreSorted(at) || at[0] < 0 {
				t.Errorf("%s: %v happen not in this order in %v", name, order, lines)
			}
		}
		if len(lines) != 16 {
			t.Errorf("%s: %d calls, want 4 of each of 4 actors: %v", name, len(lines), lines)
		}
	}
}

func TestStopLetsChildrenHandleWhatTheyHave(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	p := gated()
	var child actor.Ref[int]
	parent, err := actor.Spawn(s, "", &do{log: new(diary)})
	if err != nil {
		t.Fatal(err)
	}
	run(t, parent, func(c *actor.Context[task]) { child = spawn(t, c, p) })
	for i := range 50 {
		tell(t, child, i)
	}
	parent.Stop()
	close(p.gate)
	stopped(t, parent)
	if c := await(t, "Closed", p.closed); len(p.got) != 50 || len(c.undelivered) != 0 {
		t.Errorf("the child has handled %d messages and %v are undelivered, want 50 and none", len(p.got), c.undelivered)
	}
}

func TestStopNowReachesChildrenThatAreStopping(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t, actor.Config{})
		p := gated()
		var child actor.Ref[int]
		parent := spawn(t, s, &do{log: new(diary)})
		run(t, parent, func(c *actor.Context[task]) { child = spawn(t, c, p) })
		for i := range 50 {
			tell(t, child, i)
		}
		parent.Stop()
		synctest.Wait()
		parent.StopNow()
		close(p.gate)
		stopped(t, parent)
		if c := await(t, "Closed", p.closed); len(c.undelivered) != 49 {
			t.Errorf("%d messages of the child are undelivered, want 49", len(c.undelivered))
		}
	})
}

func TestActorThatStopsSpawnsNothing(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	parent := spawn(t, s, &do{log: new(diary)})
	run(t, parent, func(c *actor.Context[task]) {
		parent.StopNow()
		if _, err := actor.Spawn(c, "late", newProbe()); !errors.Is(err, actor.ErrStopped) {
			t.Errorf("Spawn below an actor that is to stop: %v, want ErrStopped", err)
		}
	})
	stopped(t, parent)
	if n := len(parent.Address().Children()); n != 0 {
		t.Errorf("%d children are left", n)
	}
}

func TestPathsAreUniqueAndLeadToTheActor(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	parent, err := actor.Spawn(s, "parent", &do{log: new(diary)})
	if err != nil {
		t.Fatal(err)
	}
	var all []actor.Address
	run(t, parent, func(c *actor.Context[task]) {
		for _, name := range []string{"child", "", ""} {
			r, err := actor.Spawn(c, name, newProbe())
			if err != nil {
				t.Errorf("Spawn: %v", err)
			}
			all = append(all, r.Address())
		}
		if _, err := actor.Spawn(c, "child", newProbe()); !errors.Is(err, actor.ErrNameTaken) {
			t.Errorf("second child of the name: %v, want ErrNameTaken", err)
		}
	})
	server, err := actor.Spawn(s.Internal(), "server", newProbe())
	if err != nil {
		t.Fatal(err)
	}
	child, err := actor.Spawn(s, "child", newProbe()) // another parent
	if err != nil {
		t.Fatal(err)
	}
	all = append(all, parent.Address(), server.Address(), child.Address(), spawn(t, s, newProbe()).Address(), spawn(t, s, newProbe()).Address())
	paths := make(map[string]bool)
	for _, a := range all {
		if paths[a.Path()] {
			t.Errorf("path %s is not unique", a)
		}
		paths[a.Path()] = true
		if got, ok := s.Lookup(a.Path()); !ok || got != a {
			t.Errorf("Lookup(%q) = %v, %t; want the actor", a, got, ok)
		}
	}
	for _, want := range []string{"/user/parent", "/user/parent/child", "/system/server", "/user/child"} {
		if !paths[want] {
			t.Errorf("there is no path %s in %v", want, paths)
		}
	}
	for _, none := range []string{"", "/", "/user", "/user/", "user/parent", "/users/parent", "/user/parent/", "/user/child/x", "/user/$", "/user/$zzzz", "/user/parent/child/x"} {
		if a, ok := s.Lookup(none); ok {
			t.Errorf("Lookup(%q) = %s, want none", none, a)
		}
	}
}

func TestAddressGivesBackItsRef(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	r := spawn(t, s, newProbe())
	if got, ok := actor.RefOf[int](r.Address()); !ok || got != r {
		t.Errorf("RefOf[int] = %v, %t; want the ref", got, ok)
	}
	if _, ok := actor.RefOf[string](r.Address()); ok {
		t.Error("RefOf[string] is a ref of an actor of int")
	}
	if _, ok := actor.RefOf[int](actor.Address{}); ok {
		t.Error("RefOf of the zero address is a ref")
	}
}

func TestServingActorStopsAfterItsUsers(t *testing.T) {
	t.Parallel()
	var log diary
	s := actor.NewSystem(actor.Config{})
	for name, p := range map[string]actor.Parent{"server": s.Internal(), "client": s} {
		if _, err := actor.Spawn(p, name, &do{log: &log, name: name}); err != nil {
			t.Fatal(err)
		}
	}
	shutdown(t, s)
	lines := log.read()
	if client, server := slices.Index(lines, "client closed"), slices.Index(lines, "server stopping"); client < 0 || client > server {
		t.Errorf("the server stops before its client: %v", lines)
	}
}

func TestWatchersAreToldOnceAndAfterTheLastMessage(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	const n = 40
	type news struct {
		m   int
		end actor.Terminated
	}
	got := make(chan news, 10*n)
	watcher := spawn(t, s, actor.Func[any](func(c *actor.Context[any], m any) {
		switch m := m.(type) {
		case actor.Ref[int]:
			for range 2 { // the second Watch replaces the function, and adds no message
				actor.Watch(c, m, func(t actor.Terminated) any { return t })
			}
			_ = m.Tell(n) // the second Tell is refused
		case actor.Terminated:
			got <- news{end: m}
		case int:
			got <- news{m: m}
		}
	}), actor.MailboxMax(n))
	watched := spawn(t, s, actor.Func[int](func(c *actor.Context[int], m int) {
		for i := range m {
			tell[any](t, watcher, i+1)
		}
		panic("the end")
	}))
	tell[any](t, watcher, watched)
	for want := 1; want <= n; want++ {
		if e := await(t, "a message", got); e.m != want {
			t.Fatalf("got %+v, want message %d", e, want)
		}
	}
	if e := await(t, "the end", got); e.end.Actor != watched.Address() || !errors.Is(e.end.Reason, actor.ErrFailed) {
		t.Errorf("got %+v, want the end of the watched actor with its failure", e)
	}
	tell[any](t, watcher, watched) // the watcher has stopped and refuses the Tell
	if e := await(t, "the end again", got); !errors.Is(e.end.Reason, actor.ErrFailed) {
		t.Errorf("got %+v, want the end with its failure, at once", e)
	}
}

func TestUnwatchEndsTheWatch(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	told := actortest.NewProbe[string](t, s)
	watched, marker := spawn(t, s, newProbe()), spawn(t, s, newProbe())
	watcher := spawn(t, s, &do{log: new(diary)})
	tellOf := func(what string) func(actor.Terminated) task {
		return func(actor.Terminated) task {
			return func(*actor.Context[task]) { tell(t, told.Ref(), what) }
		}
	}
	run(t, watcher, func(c *actor.Context[task]) {
		actor.Watch(c, watched, tellOf("unwatched"))
		actor.Watch(c, marker, tellOf("watched"))
		actor.Unwatch(c, watched)
	})
	watched.Stop()
	stopped(t, watched)
	marker.Stop()
	told.Expect("watched")
	if got := told.Got(); len(got) != 0 {
		t.Errorf("got %v after Unwatch", got)
	}
}

func TestParentsLearnOfTheEndOfTheirChildren(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	ends := make(chan actor.Terminated, 1)
	parent := spawn(t, s, &do{log: new(diary), child: func(c *actor.Context[task], e actor.Terminated) {
		if n := len(c.Children()); n != 0 {
			t.Errorf("%d children are left at the end of the only one", n)
		}
		ends <- e
	}})
	run(t, parent, func(c *actor.Context[task]) {
		r, err := actor.Spawn(c, "child", actor.Try[int](func(*actor.Context[int], int) error { return errors.ErrUnsupported }))
		if err != nil {
			t.Errorf("Spawn: %v", err)
		}
		tell(t, r, 1)
	})
	if e := await(t, "the end of the child", ends); e.Actor.Name() != "child" || !errors.Is(e.Reason, errors.ErrUnsupported) {
		t.Errorf("got %+v, want the end of the child with its error", e)
	}
}

func TestWalkShowsEveryActor(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	family(t, s, new(diary))
	p := gated()
	r, err := actor.Spawn(s, "slow", p, actor.MailboxMax(7))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		tell(t, r, i)
		if i == 0 {
			await(t, "the first message", p.got)
		}
	}
	seen := make(map[string]actor.Info)
	for i := range s.Walk() {
		seen[i.Path] = i
	}
	for _, path := range []string{"/user/parent", "/user/parent/leaf", "/user/parent/branch", "/user/parent/branch/twig", "/user/slow"} {
		if i, ok := seen[path]; !ok || i.Actor.Path() != path {
			t.Errorf("%s is not among %v", path, seen)
		}
	}
	if i := seen["/user/slow"]; i.Mailbox != 3 || i.MailboxMax != 7 || i.Condition != actor.Busy || i.Message.String() != "int" || i.LastError != nil {
		t.Errorf("the slow actor is %+v, want a mailbox of 3 of 7 and busy", i)
	}
	if i := seen["/user/parent"]; i.Children != 2 {
		t.Errorf("the parent has %d children, want 2", i.Children)
	}
	close(p.gate)
	for range 3 {
		await(t, "a message", p.got)
	}
	r.Stop()
	stopped(t, r)
	if i := r.Address().Info(); i.Handled != 4 || i.Condition != actor.Gone {
		t.Errorf("the stopped actor is %+v, want 4 messages handled and gone", i)
	}
	for range s.Walk() {
		break // ends the walk
	}
}

func TestTreeThatIsDeepStopsWithoutNesting(t *testing.T) {
	t.Parallel()
	const depth, nestedMax = 20_000, 100
	s := actor.NewSystem(actor.Config{})
	bottom := make(chan struct{})
	var deepest atomic.Int64
	var deeper func(m int) actor.Behavior[int]
	deeper = func(m int) actor.Behavior[int] {
		return &level{closed: func() {
			var pcs [2 * nestedMax]uintptr
			n := int64(runtime.Callers(0, pcs[:]))
			for old := deepest.Load(); n > old && !deepest.CompareAndSwap(old, n); old = deepest.Load() {
			}
		}, next: func(c *actor.Context[int]) {
			if m == 0 {
				close(bottom)
				return
			}
			child, err := actor.Spawn(c, "", deeper(m-1))
			if err == nil {
				err = child.Tell(0)
			}
			if err != nil {
				t.Errorf("at depth %d: %v", depth-m, err)
			}
		}}
	}
	tell(t, spawn(t, s, deeper(depth)), 0)
	await(t, "the bottom", bottom)
	shutdown(t, s)
	if n := deepest.Load(); n > nestedMax {
		t.Errorf("the stack is %d calls deep at the end of an actor, want at most %d", n, nestedMax)
	}
}

// A level is the behavior of one level of a tree. It calls functions at its message and
// at its end.
type level struct {
	next   func(c *actor.Context[int])
	closed func()
}

func (l *level) Receive(c *actor.Context[int], _ int) { l.next(c) }

func (l *level) Closed(error, []int) { l.closed() }

func TestWatchEndsWithItsBehavior(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t, actor.Config{})
		others := []actor.Ref[int]{spawn(t, s, newProbe()), spawn(t, s, newProbe()), spawn(t, s, newProbe())}
		var log diary
		lives := 0
		fail := errors.New("fail")
		r, err := actor.SpawnFrom(s, "", func() actor.Behavior[any] {
			lives++
			life := lives
			return &lifeOf{life: life, receive: func(c *actor.Context[any], m any) {
				switch m := m.(type) {
				case string:
					log.write(fmt.Sprint("life ", life, " hears of ", m))
				case func():
					m()
				case error:
					panic(m)
				}
			}, start: func(c *actor.Context[any]) {
				child, err := actor.Spawn(c, "child", actor.Func[int](func(*actor.Context[int], int) {}))
				if err != nil {
					t.Errorf("Spawn: %v", err)
				}
				watch := func(what string, to actor.Ref[int]) {
					actor.Watch(c, to, func(actor.Terminated) any { return fmt.Sprint(what, " of life ", life) })
				}
				watch("child", child)
				if life == 1 {
					watch("the first", others[0])
					watch("the second", others[1])
				}
				watch("the third", others[2])
			}}
		})
		if err != nil {
			t.Fatal(err)
		}
		gate := make(chan struct{})
		tell[any](t, r, func() { <-gate })
		tell[any](t, r, fail)
		synctest.Wait()
		others[0].Stop() // its end waits in the mailbox, behind the failure
		synctest.Wait()
		close(gate)
		synctest.Wait()
		others[1].Stop() // the fresh behavior does not watch this actor
		others[2].Stop()
		synctest.Wait()
		tell[any](t, r, fail)
		synctest.Wait()
		if got, want := log.read(), []string{"life 2 hears of the third of life 2", "life 3 hears of the third of life 3"}; !slices.Equal(got, want) || lives != 3 {
			t.Errorf("got %v in %d lives, want %v in 3", got, lives, want)
		}
		r.Stop()
		synctest.Wait()
	})
}

// A lifeOf is a behavior that calls the same function at its start and after each
// restart.
type lifeOf struct {
	life    int
	receive func(c *actor.Context[any], m any)
	start   func(c *actor.Context[any])
}

func (b *lifeOf) Started(c *actor.Context[any]) { b.start(c) }

func (b *lifeOf) Receive(c *actor.Context[any], m any) { b.receive(c, m) }

func TestUnwatchEndsAWatchWhoseMessageIsBeingMade(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]bool{"Unwatch": false, "Unwatch and Watch": true, "Watch": true} {
		synctest.Test(t, func(t *testing.T) {
			s := newSystem(t, actor.Config{})
			other := spawn(t, s, newProbe())
			gate := make(chan struct{})
			var log diary
			w := spawn(t, s, &do{log: &log})
			say := func(what string) func(actor.Terminated) task {
				return func(actor.Terminated) task {
					return func(*actor.Context[task]) { log.write(what) }
				}
			}
			run(t, w, func(c *actor.Context[task]) {
				actor.Watch(c, other, func(e actor.Terminated) task { <-gate; return say("first")(e) })
			})
			other.Stop()
			synctest.Wait()
			run(t, w, func(c *actor.Context[task]) {
				if name != "Watch" {
					actor.Unwatch(c, other)
				}
				if again {
					actor.Watch(c, other, say("second"))
				}
			})
			close(gate)
			synctest.Wait()
			got := slices.DeleteFunc(log.read(), func(l string) bool { return l != "first" && l != "second" })
			want := []string{"second"}
			if !again {
				want = nil
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: got %v, want %v", name, got, want)
			}
		})
	}
}
