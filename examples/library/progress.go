package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A progress says how far an import is: a bar on a terminal, a line from time
// to time elsewhere.
type progress struct {
	out     *printer
	bar     bool
	begun   time.Time
	total   int
	ran     atomic.Int64 // by this run
	earlier atomic.Int64 // by earlier ones

	stopped       sync.Once
	ending, ended chan struct{}
}

// barInterval is how often a bar is drawn.
const barInterval = 100 * time.Millisecond

// startProgress begins to say how far an import of so many commands is. The
// caller stops it.
func (a *app) startProgress(total int, f *importFlags) *progress {
	p := &progress{
		out: a.err, bar: isTerminal(a.err.w), begun: time.Now(), total: total,
		ending: make(chan struct{}), ended: make(chan struct{}),
	}
	if f.quiet {
		close(p.ended)
		return p
	}
	interval := f.interval
	if p.bar {
		interval = barInterval
	}
	go p.run(interval)
	return p
}

// add counts commands that are safe.
func (p *progress) add(n int, earlier bool) {
	if earlier {
		p.earlier.Add(int64(n))
	} else {
		p.ran.Add(int64(n))
	}
}

// done returns how many commands are safe.
func (p *progress) done() int { return int(p.earlier.Load() + p.ran.Load()) }

// stop says no more. A bar is wiped off, so that what follows has the line to
// itself. It may be called again.
func (p *progress) stop() {
	p.stopped.Do(func() { close(p.ending) })
	<-p.ended
}

func (p *progress) run(interval time.Duration) {
	defer close(p.ended)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-p.ending:
			if p.bar {
				p.out.printf("\r\x1b[K")
			}
			return
		case <-tick.C:
		}
		if p.bar {
			p.out.printf("\r%s\x1b[K", p.line(time.Since(p.begun), bar(p.done(), p.total)))
		} else {
			p.out.printf("%s\n", p.line(time.Since(p.begun), ""))
		}
	}
}

// line says how far it is after so much time.
func (p *progress) line(elapsed time.Duration, bar string) string {
	done := p.done()
	rate := float64(p.ran.Load()) / max(elapsed.Seconds(), 0.001)
	left := "?"
	if rate > 0 {
		left = time.Duration(float64(p.total-done) / rate * float64(time.Second)).Round(time.Second).String()
	}
	return fmt.Sprintf("%s%3d %%  %s of %s commands, %s a second, %s left",
		bar, percent(done, p.total), count(done), count(p.total), count(int(rate)), left)
}

// barWidth is the width of a bar in characters.
const barWidth = 30

func bar(done, total int) string {
	full := barWidth * percent(done, total) / 100
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", barWidth-full) + "] "
}

func percent(done, total int) int {
	if total == 0 {
		return 100
	}
	return min(100*done/total, 100)
}

// isTerminal reports whether w is something that a bar can be drawn on.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}
