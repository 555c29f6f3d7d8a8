package projectiontest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"

	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
)

// racers is the number of concurrent writers.
const racers = 16

func contextCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "a context that has ended stores nothing", run: func(x *fixture[Tx]) {
			ctx, cancel := context.WithCancel(x.ctx)
			cancel()
			err := x.target.Update(ctx, func(tx Tx) error { return x.write(tx, "a", "never") })
			x.wantError("update", err, context.Canceled)
			err = x.target.View(ctx, func(Tx) error { return nil })
			x.wantError("view", err, context.Canceled)
			x.want("a", none)
			x.store("a", "later")
			x.want("a", "later")
		}},
		{name: "a context that ends in do leaves no doubt", run: func(x *fixture[Tx]) {
			for i := range 10 {
				ctx, cancel := context.WithCancel(x.ctx)
				key := fmt.Sprintf("a%d", i)
				err := x.target.Update(ctx, func(tx Tx) error {
					if err := x.write(tx, key, "1"); err != nil {
						return err
					}
					cancel()
					return nil
				})
				if err != nil {
					x.wantError("update", err, context.Canceled)
					x.wantError("update", err, store.ErrNotStored)
					x.want(key, none)
				} else {
					x.want(key, "1")
				}
			}
			x.store("a", "later")
			x.want("a", "later")
		}},
		{name: "who waits for another writer stops when its context ends", run: func(x *fixture[Tx]) {
			holds, free := make(chan struct{}), make(chan struct{})
			release := sync.OnceFunc(func() { close(free) })
			defer release()
			holder := x.background("the writer that holds the note", func() error {
				var once bool
				return x.target.Update(x.ctx, func(tx Tx) error {
					if _, err := x.target.Note(x.ctx, tx, "a"); err != nil {
						return err
					}
					if err := x.write(tx, "a", "holder"); err != nil {
						return err
					}
					if !once {
						once = true
						close(holds)
						<-free
					}
					return nil
				})
			})
			x.await("the note of the first writer", holds)
			ctx, cancel := context.WithCancel(x.ctx)
			waiter := x.background("the writer that waits", func() error {
				return x.target.Update(ctx, func(tx Tx) error {
					if _, err := x.target.Note(ctx, tx, "a"); err != nil {
						return err
					}
					return x.write(tx, "a", "waiter")
				})
			})
			cancel()
			err := waiter()
			x.wantError("update that waits", err, context.Canceled)
			release()
			if err := holder(); err != nil {
				x.Errorf("update that was waited for: %v", err)
			}
			x.want("a", "holder")
		}},
	}
}

// count adds one to a note and to the value of the model beside it.
func (x *fixture[Tx]) count(target projection.Target[Tx], key string) error {
	return target.Update(x.ctx, func(tx Tx) error {
		b, err := target.Note(x.ctx, tx, key)
		if err != nil {
			return err
		}
		n, _ := strconv.Atoi(string(b)) // an empty value counts as 0
		runtime.Gosched()               // lets other goroutines run, unless a lock keeps them out
		b = strconv.AppendInt(nil, int64(n+1), 10)
		return errors.Join(x.Put(x.ctx, tx, key, string(b)), target.SetNote(x.ctx, tx, key, b))
	})
}

// race counts from many goroutines at once.
func (x *fixture[Tx]) race(rounds int, key func(racer int) string, targets ...projection.Target[Tx]) {
	x.Helper()
	start := make(chan struct{})
	var waits []func() error
	for i := range racers {
		waits = append(waits, x.background("a racer", func() error {
			<-start
			for range rounds {
				if err := x.count(targets[i%len(targets)], key(i)); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	close(start)
	for i, wait := range waits {
		if err := wait(); err != nil {
			x.Errorf("racer %d: %v", i, err)
		}
	}
}

func writerCases[Tx any]() []testCase[Tx] {
	const rounds = 5
	same := func(int) string { return "a" }
	return []testCase[Tx]{
		{name: "sixteen writers of a new note lose nothing", run: func(x *fixture[Tx]) {
			x.race(rounds, same, x.target)
			x.want("a", fmt.Sprint(racers*rounds))
		}},
		{name: "sixteen writers of a note that is there lose nothing", run: func(x *fixture[Tx]) {
			x.store("a", "1000")
			x.race(rounds, same, x.target)
			x.want("a", fmt.Sprint(1000+racers*rounds))
		}},
		{name: "writers of different notes leave each other alone", run: func(x *fixture[Tx]) {
			x.race(rounds, strconv.Itoa, x.target)
			for i := range racers {
				x.want(strconv.Itoa(i), fmt.Sprint(rounds))
			}
		}},
		{name: "a note that comes and goes under sixteen writers loses nothing", run: func(x *fixture[Tx]) {
			// Each racer moves a total from one note to the other, and removes the first.
			x.update(func(tx Tx) error { return x.target.SetNote(x.ctx, tx, "a", []byte("0")) })
			var waits []func() error
			for range racers {
				waits = append(waits, x.background("a racer", func() error {
					for range rounds {
						if err := x.target.Update(x.ctx, x.handOn); err != nil {
							return err
						}
					}
					return nil
				}))
			}
			for i, wait := range waits {
				if err := wait(); err != nil {
					x.Errorf("racer %d: %v", i, err)
				}
			}
			x.view(func(tx Tx) error {
				all, err := x.list(tx, "")
				if want := fmt.Sprint([]string{fmt.Sprint("a=", racers*rounds)}); fmt.Sprint(all) != want {
					x.Errorf("notes: got %q, want %q", all, want)
				}
				return err
			})
		}},
		{name: "writers of two targets on the same data lose nothing", needs: "Another", run: func(x *fixture[Tx]) {
			x.race(rounds, same, x.target, x.Another(x, x.target))
			x.want("a", fmt.Sprint(racers*rounds))
		}},
	}
}

// handOn moves the total from note a to b and back, in one transaction. It adds one on the way
// back only.
func (x *fixture[Tx]) handOn(tx Tx) error {
	for _, way := range [][2]string{{"a", "b"}, {"b", "a"}} {
		b, err := x.target.Note(x.ctx, tx, way[0])
		if err != nil {
			return err
		}
		if b == nil {
			return fmt.Errorf("note %q is gone", way[0])
		}
		n, err := strconv.Atoi(string(b))
		if err != nil {
			return err
		}
		runtime.Gosched() // as in count
		if way[0] == "b" {
			n++
		}
		if err := errors.Join(
			x.target.SetNote(x.ctx, tx, way[0], nil),
			x.target.SetNote(x.ctx, tx, way[1], []byte(strconv.Itoa(n))),
		); err != nil {
			return err
		}
	}
	return nil
}
