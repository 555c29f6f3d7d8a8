package main

import "sync"

// channel runs one goroutine per actor, which reads a buffered channel: the usual Go code
// without an actor library. It has no names, no supervision, and no limit on the cost of an
// idle actor.
type channel struct{}

// serve starts goroutines that handle the messages of their channels.
func serve[M any](n int, handler func(i int) func(M)) (boxes []chan M, end func() error) {
	boxes = make([]chan M, n)
	var all sync.WaitGroup
	for i := range boxes {
		boxes[i] = make(chan M, mailboxLen)
		handle := handler(i)
		all.Go(func() {
			for m := range boxes[i] {
				handle(m)
			}
		})
	}
	return boxes, func() error {
		for _, box := range boxes {
			close(box)
		}
		all.Wait()
		return nil
	}
}

func (channel) tell(l load) trial {
	var done sync.WaitGroup
	want := l.want()
	boxes, end := serve(l.receivers, func(i int) func(uint64) {
		c := newCounter(want[i], &done)
		return func(uint64) { c.count() }
	})
	return trial{func() error {
		err := together(len(l.orders), func(i int) error {
			return l.each(i, func(r uint32, n uint64) error {
				boxes[r] <- n
				return nil
			})
		})
		done.Wait()
		return err
	}, end}
}

// A parcel is a question with a channel for the answer.
type parcel struct {
	n     uint64
	reply chan<- uint64
}

func (channel) ask(l load) trial {
	boxes, end := serve(l.receivers, func(int) func(parcel) {
		return func(p parcel) { p.reply <- 2 * p.n }
	})
	return trial{func() error {
		return together(len(l.orders), func(i int) error {
			reply := make(chan uint64, 1)
			return l.each(i, func(r uint32, n uint64) error {
				boxes[r] <- parcel{n, reply}
				if got := <-reply; got != 2*n {
					return wrongAnswer(n, got)
				}
				return nil
			})
		})
	}, end}
}

func (channel) pingPong(pairs, hits int) trial {
	var done sync.WaitGroup
	done.Add(pairs)
	var boxes []chan int
	boxes, end := serve(2*pairs, func(i int) func(int) {
		return func(left int) {
			if left--; left == 0 {
				done.Done()
				return
			}
			boxes[i^1] <- left
		}
	})
	return trial{func() error {
		for i := 0; i < len(boxes); i += 2 {
			boxes[i] <- hits
		}
		done.Wait()
		return nil
	}, end}
}

func (channel) spawn(n int) trial {
	boxes := make([]chan uint64, n)
	var all sync.WaitGroup
	return trial{func() error {
		for i := range boxes {
			boxes[i] = make(chan uint64, spawnedLen)
			all.Go(func() {
				for range boxes[i] {
				}
			})
		}
		return nil
	}, func() error {
		for _, box := range boxes {
			close(box)
		}
		all.Wait()
		return nil
	}}
}

func (channel) skynet(leaves int) trial {
	var grow func(first uint64, leaves int, parent chan<- uint64)
	grow = func(first uint64, leaves int, parent chan<- uint64) {
		if leaves == 1 {
			parent <- first
			return
		}
		sums := make(chan uint64, children)
		leaves /= children
		for i := range children {
			go grow(first+uint64(i*leaves), leaves, sums)
		}
		sum := uint64(0)
		for range children {
			sum += <-sums
		}
		parent <- sum
	}
	return trial{func() error {
		sums := make(chan uint64, 1)
		go grow(0, leaves, sums)
		return wrongSum(leaves, <-sums)
	}, func() error { return nil }}
}
