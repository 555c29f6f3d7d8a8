// Package progress says how far long work is: by a bar that is drawn in place on
// a terminal, by a line from time to time elsewhere.
package progress

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// BarInterval is how often a bar is drawn.
const BarInterval = 100 * time.Millisecond

// IntervalDefault is how often a line says how far it is, unless a [Config] says
// otherwise.
const IntervalDefault = 5 * time.Second

// barWidth is the width of a bar in characters.
const barWidth = 30

// A State is how far the work is at one moment.
type State struct {
	// Phase is what is being done, such as "read events". It may be empty.
	Phase string
	// Unit is what is counted, such as "records".
	Unit string
	// Done and Total count what is done and all there is. A negative Total is not
	// known.
	Done, Total int64
	// Earlier is what of Done was there before Elapsed began: it tells nothing
	// about how fast the rest is going to be.
	Earlier int64
	// Bytes says that bytes are counted, which are written as such.
	Bytes bool
	// Elapsed is how long the work has taken so far.
	Elapsed time.Duration
}

// Rate returns how many units have been done in a second.
func (s State) Rate() float64 {
	if s.Elapsed <= 0 {
		return 0
	}
	return float64(s.Done-s.Earlier) / s.Elapsed.Seconds()
}

// Left returns how long the rest is going to take at the rate so far, and false
// if that cannot be told.
func (s State) Left() (time.Duration, bool) {
	rate := s.Rate()
	if rate <= 0 || s.Total < s.Done {
		return 0, false
	}
	return time.Duration(float64(s.Total-s.Done) / rate * float64(time.Second)), true
}

// Line says it in a line, without its end.
func (s State) Line() string {
	amount := Count
	if s.Bytes {
		amount = Size
	}
	phase := ""
	if s.Phase != "" {
		phase = s.Phase + ": "
	}
	if s.Total < 0 {
		return fmt.Sprintf("%s%s %s, %s a second", phase, amount(s.Done), s.Unit, amount(int64(s.Rate())))
	}
	left := "?"
	if d, ok := s.Left(); ok {
		left = d.Round(time.Second).String()
	}
	return fmt.Sprintf("%3d %%  %s%s of %s %s, %s a second, %s left",
		s.percent(), phase, amount(s.Done), amount(s.Total), s.Unit, amount(int64(s.Rate())), left)
}

// Bar says it in a line that begins with a bar, if the total is known.
func (s State) Bar() string {
	if s.Total < 0 {
		return s.Line()
	}
	full := int(barWidth * s.percent() / 100)
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", barWidth-full) + "] " + s.Line()
}

func (s State) percent() int64 {
	if s.Total == 0 {
		return 100
	}
	return min(100*s.Done/s.Total, 100)
}

// A Config says how and where to tell.
type Config struct {
	// Out is what is written to. Its errors are ignored: there is nobody else to
	// tell.
	Out io.Writer
	// State returns how far it is, and false if there is nothing to tell. It is
	// called by one goroutine, beside the work.
	State func() (State, bool)
	// Bar draws a bar, see [IsTerminal].
	Bar bool
	// Interval is how often a line is written where there is no bar;
	// [IntervalDefault] if it is not above zero.
	Interval time.Duration
	// Quiet tells nothing.
	Quiet bool
}

// A Teller tells how far it is until it is stopped.
type Teller struct {
	config        Config
	stopped       sync.Once
	ending, ended chan struct{}
}

// Start begins to tell, in a goroutine that Stop ends.
func Start(c Config) *Teller {
	t := &Teller{config: c, ending: make(chan struct{}), ended: make(chan struct{})}
	switch {
	case c.Quiet:
		close(t.ended)
	case c.Bar:
		go t.run(BarInterval)
	case c.Interval > 0:
		go t.run(c.Interval)
	default:
		go t.run(IntervalDefault)
	}
	return t
}

// Stop tells no more and waits until what is being written is out. A bar is wiped
// off, so that what follows has the line to itself. It may be called again.
func (t *Teller) Stop() {
	t.stopped.Do(func() { close(t.ending) })
	<-t.ended
}

func (t *Teller) run(interval time.Duration) {
	defer close(t.ended)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-t.ending:
			if t.config.Bar {
				t.write("\r\x1b[K")
			}
			return
		case <-tick.C:
			t.tell()
		}
	}
}

func (t *Teller) tell() {
	s, ok := t.config.State()
	switch {
	case !ok:
	case t.config.Bar:
		t.write("\r" + s.Bar() + "\x1b[K")
	default:
		t.write(s.Line() + "\n")
	}
}

func (t *Teller) write(text string) { _, _ = io.WriteString(t.config.Out, text) }

// Count writes a number with commas between the thousands.
func Count(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Size writes a number of bytes for people.
func Size(n int64) string {
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

// IsTerminal reports whether w is something that a bar can be drawn on.
func IsTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}
