package projectiontest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
)

// A testError is an error of a handler. Tests recognise it by its type.
type testError struct{ text string }

func (e *testError) Error() string { return e.text }

func updateCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "the model and the notes are stored together", run: func(x *fixture[Tx]) {
			x.want("a", none)
			x.update(func(tx Tx) error {
				if err := x.write(tx, "a", "1"); err != nil {
					return err
				}
				return x.write(tx, "b", "2")
			})
			x.want("a", "1")
			x.want("b", "2")
			x.store("a", "3")
			x.want("a", "3")
			x.want("b", "2")
		}},
		{name: "an error of do is returned and nothing is stored", run: func(x *fixture[Tx]) {
			x.store("a", "before")
			failure := &testError{"no such luck"}
			err := x.target.Update(x.ctx, func(tx Tx) error {
				if err := x.write(tx, "a", "after"); err != nil {
					return err
				}
				if err := x.write(tx, "b", "after"); err != nil {
					return err
				}
				return fmt.Errorf("handler: %w", failure)
			})
			var found *testError
			if !errors.As(err, &found) || found != failure {
				x.Errorf("update: got error %v, want one that wraps %v", err, failure)
			}
			x.want("a", "before")
			x.want("b", none)
			x.store("b", "later")
			x.want("b", "later")
		}},
		{name: "what was removed is back after an error", run: func(x *fixture[Tx]) {
			x.store("a", "before")
			err := x.target.Update(x.ctx, func(tx Tx) error {
				if err := x.target.SetNote(x.ctx, tx, "a", nil); err != nil {
					return err
				}
				return &testError{"no"}
			})
			if err == nil {
				x.Error("update: got no error, want that of do")
			}
			x.want("a", "before")
		}},
		{name: "a panic of do passes through and nothing is stored", run: func(x *fixture[Tx]) {
			x.store("a", "before")
			failure := &testError{"a bug"}
			func() {
				defer func() {
					if r := recover(); r != any(failure) {
						x.Errorf("update: got panic %v, want %v", r, failure)
					}
				}()
				err := x.target.Update(x.ctx, func(tx Tx) error {
					if err := x.write(tx, "a", "after"); err != nil {
						return err
					}
					panic(failure)
				})
				x.Errorf("update: got error %v, want a panic", err)
			}()
			x.want("a", "before")
			x.store("a", "later")
			x.want("a", "later")
		}},
		{name: "a goroutine that ends in do stores nothing and holds up nobody", run: func(x *fixture[Tx]) {
			wait := x.background("the goroutine", func() error {
				return x.target.Update(x.ctx, func(tx Tx) error {
					if err := x.write(tx, "a", "never"); err != nil {
						return err
					}
					runtime.Goexit()
					return nil
				})
			})
			_ = wait() // waits until the goroutine has ended
			x.want("a", none)
			x.store("a", "later")
			x.want("a", "later")
		}},
		{name: "do sees what it has written", run: func(x *fixture[Tx]) {
			x.store("a", "0")
			x.update(func(tx Tx) error {
				if err := errors.Join(x.write(tx, "a", "1"), x.write(tx, "b", "2")); err != nil {
					return err
				}
				if err := errors.Join(x.wantIn(tx, "a", "1"), x.wantIn(tx, "b", "2")); err != nil {
					return err
				}
				got, err := x.list(tx, "")
				if fmt.Sprint(got) != "[a=1 b=2]" {
					x.Errorf("notes within the update: got %q, want a=1 and b=2", got)
				}
				if err := errors.Join(err, x.target.SetNote(x.ctx, tx, "a", nil)); err != nil {
					return err
				}
				if note, err := x.note(tx, "a"); err != nil || note != none {
					x.Errorf("note that was removed within the update: got %q, %v, want none", note, err)
				}
				return nil
			})
		}},
		{name: "an update that changes nothing works", run: func(x *fixture[Tx]) {
			x.update(func(Tx) error { return nil })
			x.want("a", none)
		}},
		{name: "nothing is visible before the commit", run: func(x *fixture[Tx]) {
			x.store("a", "before")
			written, free := make(chan struct{}), make(chan struct{})
			release := sync.OnceFunc(func() { close(free) })
			defer release()
			wait := x.background("the update", func() error {
				var once bool
				return x.target.Update(x.ctx, func(tx Tx) error {
					if err := errors.Join(x.write(tx, "a", "after"), x.write(tx, "b", "after")); err != nil {
						return err
					}
					if !once {
						once = true
						close(written)
						<-free
					}
					return nil
				})
			})
			x.await("the write of the update", written)
			view := x.background("a view while an update runs", func() error {
				return x.target.View(x.ctx, func(tx Tx) error {
					return errors.Join(x.wantIn(tx, "a", "before"), x.wantIn(tx, "b", none))
				})
			})
			err := view()
			release()
			if err := errors.Join(err, wait()); err != nil {
				x.Fatalf("update and view: %v", err)
			}
			x.want("a", "after")
			x.want("b", "after")
		}},
	}
}

func viewCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "a view has one state whatever is stored meanwhile", run: func(x *fixture[Tx]) {
			x.store("a", "before")
			x.store("b", "before")
			x.view(func(tx Tx) error {
				if err := x.wantIn(tx, "a", "before"); err != nil {
					return err
				}
				wait := x.background("an update while a view runs", func() error {
					return x.target.Update(x.ctx, func(tx Tx) error {
						return errors.Join(x.write(tx, "b", "after"), x.write(tx, "c", "after"))
					})
				})
				if err := wait(); err != nil {
					return err
				}
				got, err := x.list(tx, "")
				if fmt.Sprint(got) != "[a=before b=before]" {
					x.Errorf("notes in the view: got %q, want a=before and b=before", got)
				}
				return errors.Join(err, x.wantIn(tx, "b", "before"), x.wantIn(tx, "c", none))
			})
			x.want("b", "after")
			x.want("c", "after")
		}},
		{name: "a view never sees half a transaction", run: func(x *fixture[Tx]) {
			const rounds = 100
			ctx, cancel := context.WithCancel(x.ctx)
			defer cancel()
			x.store("a", "0")
			x.store("b", "0")
			var waits []func() error
			for range 4 {
				waits = append(waits, x.background("a reader", func() error {
					for ctx.Err() == nil {
						err := x.target.View(x.ctx, func(tx Tx) error {
							a, noteA, err := x.read(tx, "a")
							if err != nil {
								return err
							}
							b, noteB, err := x.read(tx, "b")
							if a != b || a != noteA || b != noteB {
								x.Errorf("a view has %q, %q in the model and %q, %q in the notes, want all the same", a, b, noteA, noteB)
							}
							return err
						})
						if err != nil {
							return err
						}
					}
					return nil
				}))
			}
			for i := range rounds {
				x.update(func(tx Tx) error {
					n := fmt.Sprint(i + 1)
					return errors.Join(x.write(tx, "a", n), x.write(tx, "b", n))
				})
			}
			cancel()
			for _, wait := range waits {
				if err := wait(); err != nil {
					x.Errorf("view: %v", err)
				}
			}
			x.want("a", fmt.Sprint(rounds))
		}},
		{name: "a view returns the error of do", run: func(x *fixture[Tx]) {
			failure := &testError{"not there"}
			err := x.target.View(x.ctx, func(Tx) error { return failure })
			x.wantError("view", err, failure)
			x.store("a", "1")
			x.want("a", "1")
		}},
		{name: "a panic of a view passes through and holds up nobody", run: func(x *fixture[Tx]) {
			failure := &testError{"a bug"}
			func() {
				defer func() {
					if r := recover(); r != any(failure) {
						x.Errorf("view: got panic %v, want %v", r, failure)
					}
				}()
				_ = x.target.View(x.ctx, func(Tx) error { panic(failure) }) // it does not return
			}()
			x.store("a", "1")
			x.want("a", "1")
		}},
		{name: "a view refuses to set a note", run: func(x *fixture[Tx]) {
			x.store("a", "before")
			var set error
			err := x.target.View(x.ctx, func(tx Tx) error {
				set = x.target.SetNote(x.ctx, tx, "a", []byte("after"))
				return nil
			})
			if set == nil {
				x.Errorf("a note that is set in a view: got no error from it, want one (the view returned %v)", err)
			}
			x.want("a", "before")
			x.store("a", "later")
			x.want("a", "later")
		}},
		{name: "a view stores nothing of the model", run: func(x *fixture[Tx]) {
			x.store("a", "before")
			func() {
				defer func() { _ = recover() }() // a panic is as good as an error
				_ = x.target.View(x.ctx, func(tx Tx) error { return x.Put(x.ctx, tx, "a", "after") })
			}()
			x.want("a", "before")
			x.store("a", "later")
			x.want("a", "later")
		}},
	}
}
