// Package progress reports the progress of long work: by a bar that is redrawn in place on
// a terminal, and by a line from time to time elsewhere.
package progress

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// BarInterval is the time between two drawings of a bar.
const BarInterval = 100 * time.Millisecond

// IntervalDefault is the time between two lines, unless a [Config] sets another one.
const IntervalDefault = 5 * time.Second

// barWidth is the width of a bar in characters.
const barWidth = 30

// A State is the progress of the work at one time.
type State struct {
	// Phase is the current step, such as "read events". It may be empty.
	Phase string
	// Unit is the thing that is counted, such as "records".
	Unit string
	// Done is the number of units done, Total the number of all units. A negative Total is
	// unknown.
	Done, Total int64
	// Earlier is the part of Done that was done before Elapsed began. It does not count for
	// the rate.
	Earlier int64
	// Bytes says that the unit is bytes, which are printed with prefixes such as Mi.
	Bytes bool
	// Elapsed is the duration of the work so far.
	Elapsed time.Duration
	// Rest is what else is left, such as "12 messages to deliver". It may be empty.
	Rest string
}

// Rate returns the number of units done per second.
func (s State) Rate() float64 {
	if s.Elapsed <= 0 {
		return 0
	}
	return float64(s.Done-s.Earlier) / s.Elapsed.Seconds()
}

// Left returns the remaining duration at the rate so far, and false if it cannot be
// estimated.
func (s State) Left() (time.Duration, bool) {
	rate := s.Rate()
	if rate <= 0 || s.Total < s.Done {
		return 0, false
	}
	return time.Duration(float64(s.Total-s.Done) / rate * float64(time.Second)), true
}

// Line returns the state as a line of text, without a newline.
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
	rest := ""
	if s.Rest != "" {
		rest = "; " + s.Rest
	}
	return fmt.Sprintf("%3d %%  %s%s of %s %s, %s a second, %s left%s",
		s.percent(), phase, amount(s.Done), amount(s.Total), s.Unit, amount(int64(s.Rate())), left, rest)
}

// Bar returns the state as a line that begins with a bar, if the total is known.
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

// A Config says where and how a [Teller] reports.
type Config struct {
	// Out is the destination. Its errors are ignored, since there is no other place to
	// report them.
	Out io.Writer
	// State returns the current progress, and false if there is nothing to report. The
	// Teller calls it on its own goroutine, at the same time as the work.
	State func() (State, bool)
	// Bar selects a bar instead of lines, see [IsTerminal].
	Bar bool
	// Interval is the time between two lines if there is no bar. If it is not above zero,
	// it is [IntervalDefault].
	Interval time.Duration
	// Quiet disables the reports.
	Quiet bool
}

// A Teller reports progress until it is stopped.
type Teller struct {
	config        Config
	stopped       sync.Once
	ending, ended chan struct{}
}

// Start begins to report, on a goroutine that Stop ends.
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

// Stop ends the reports and waits until the last write has returned. It clears a bar, so
// that the next output begins on an empty line. It may be called again.
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

// Count returns a number with commas between the thousands.
func Count(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Size returns a number of bytes in a readable form, such as "1.5 Mi".
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

// IsTerminal reports whether a bar can be drawn on w.
func IsTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}
