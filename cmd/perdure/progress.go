package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/perdure/perdure/store"
)

const (
	// intervalDefault is how often a line says how far it is.
	intervalDefault = 5 * time.Second
	// barInterval is how often a bar is drawn.
	barInterval = 100 * time.Millisecond
	barWidth    = 30
)

// A progress says how far long work is: a bar on a terminal, a line from time to
// time elsewhere.
type progress struct {
	a   *app
	bar bool

	mu   sync.Mutex
	last store.Progress
	told bool // nothing new since

	stopped       sync.Once
	ending, ended chan struct{}
}

// startProgress begins to say how far it is. The caller stops it.
func (a *app) startProgress() *progress {
	p := &progress{a: a, bar: isTerminal(a.err), told: true, ending: make(chan struct{}), ended: make(chan struct{})}
	if a.quiet {
		close(p.ended)
		return p
	}
	interval := max(a.interval, barInterval)
	if p.bar {
		interval = barInterval
	}
	go p.run(interval)
	return p
}

// set notes how far it is.
func (p *progress) set(now store.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last, p.told = now, false
}

// stop says no more. A bar is wiped off. It may be called again.
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
				p.a.tell("\r\x1b[K")
			}
			return
		case <-tick.C:
			p.tell()
		}
	}
}

func (p *progress) tell() {
	p.mu.Lock()
	last, told := p.last, p.told
	p.told = true
	p.mu.Unlock()
	switch {
	case told:
	case p.bar:
		p.a.tell("\r%s\x1b[K", line(last, true))
	default:
		p.a.tell("%s\n", line(last, false))
	}
}

// line says how far it is.
func line(p store.Progress, bar bool) string {
	unit, amount := "records", count
	if p.Bytes {
		unit, amount = "bytes", size
	}
	if p.Total <= 0 {
		return fmt.Sprintf("%s: %s %s, %s a second", p.Phase, amount(p.Done), unit, amount(int64(p.Rate())))
	}
	percent := min(100*p.Done/p.Total, 100)
	drawn := ""
	if bar {
		full := int(barWidth * percent / 100)
		drawn = "[" + strings.Repeat("#", full) + strings.Repeat(".", barWidth-full) + "] "
	}
	left := "?"
	if d, ok := p.Left(); ok {
		left = d.Round(time.Second).String()
	}
	return fmt.Sprintf("%s%3d %%  %s: %s of %s %s, %s a second, %s left",
		drawn, percent, p.Phase, amount(p.Done), amount(p.Total), unit, amount(int64(p.Rate())), left)
}

// count writes a number with commas.
func count(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// size writes a number of bytes for people.
func size(n int64) string {
	const step = 1024
	units := []string{"", " Ki", " Mi", " Gi", " Ti"}
	f, i := float64(n), 0
	for f >= step && i < len(units)-1 {
		f, i = f/step, i+1
	}
	if i == 0 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%.1f%s", f, units[i])
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
