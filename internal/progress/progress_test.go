package progress_test

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/internal/progress"
)

func TestProgressStateIsALineThatSaysHowFarItIs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		state     progress.State
		line, bar string // bar is the part before the line
	}{
		{
			progress.State{Phase: "read events", Unit: "records", Done: 1234, Total: -1, Elapsed: time.Second},
			"read events: 1,234 records, 1,234 a second", "",
		},
		{
			progress.State{Phase: "read events", Unit: "records", Done: 25, Total: 100, Elapsed: time.Second},
			" 25 %  read events: 25 of 100 records, 25 a second, 3s left", "[#######.......................] ",
		},
		{
			progress.State{Phase: "write", Unit: "bytes", Done: 3 << 19, Total: 3 << 20, Bytes: true, Elapsed: 2 * time.Second},
			" 50 %  write: 1.5 Mi of 3.0 Mi bytes, 768.0 Ki a second, 2s left", "[###############...............] ",
		},
		{ // units done before this run do not count for its rate
			progress.State{Unit: "commands", Done: 5000, Earlier: 4000, Total: 20_000, Elapsed: 2 * time.Second},
			" 25 %  5,000 of 20,000 commands, 500 a second, 30s left", "[#######.......................] ",
		},
		{
			progress.State{Unit: "commands", Total: 5, Elapsed: time.Second},
			"  0 %  0 of 5 commands, 0 a second, ? left", "[..............................] ",
		},
		{
			progress.State{Unit: "commands", Done: 4, Earlier: 4, Total: 5, Elapsed: time.Second},
			" 80 %  4 of 5 commands, 0 a second, ? left", "[########################......] ",
		},
		{
			progress.State{Unit: "commands", Done: 5, Total: 5},
			"100 %  5 of 5 commands, 0 a second, ? left", "[##############################] ",
		},
		{
			progress.State{Unit: "commands"},
			"100 %  0 of 0 commands, 0 a second, ? left", "[##############################] ",
		},
		{
			progress.State{Unit: "commands", Done: 5, Total: 5, Elapsed: time.Second, Rest: "7 messages left"},
			"100 %  5 of 5 commands, 5 a second, 0s left; 7 messages left", "[##############################] ",
		},
		{ // the total was only an estimate
			progress.State{Unit: "records", Done: 150, Total: 100, Elapsed: time.Second},
			"100 %  150 of 100 records, 150 a second, ? left", "[##############################] ",
		},
	} {
		if got := c.state.Line(); got != c.line {
			t.Errorf("line of %+v\n got %q\nwant %q", c.state, got, c.line)
		}
		if got := c.state.Bar(); got != c.bar+c.line {
			t.Errorf("bar of %+v\n got %q\nwant %q", c.state, got, c.bar+c.line)
		}
	}
}

// states returns the given states one after another, and then nothing to report.
func states(all ...progress.State) func() (progress.State, bool) {
	return func() (progress.State, bool) {
		if len(all) == 0 {
			return progress.State{}, false
		}
		s := all[0]
		all = all[1:]
		return s, true
	}
}

func half(total int64) progress.State {
	return progress.State{Unit: "commands", Done: total / 2, Total: total, Elapsed: time.Second}
}

func TestTellerTellsAtItsPace(t *testing.T) {
	t.Parallel()
	const (
		ten    = " 50 %  5 of 10 commands, 5 a second, 1s left"
		twenty = " 50 %  10 of 20 commands, 10 a second, 1s left"
		bar    = "[###############...............] "
		wiped  = "\r\x1b[K"
	)
	for _, c := range []struct {
		name   string
		config progress.Config
		after  time.Duration
		want   string
	}{
		{"a bar is drawn in place and wiped off", progress.Config{Bar: true, Interval: time.Hour}, progress.BarInterval, "\r" + bar + ten + "\x1b[K" + wiped},
		{"a bar again", progress.Config{Bar: true}, 2 * progress.BarInterval, "\r" + bar + ten + "\x1b[K\r" + bar + twenty + "\x1b[K" + wiped},
		{"a bar with nothing new", progress.Config{Bar: true}, 9 * progress.BarInterval, "\r" + bar + ten + "\x1b[K\r" + bar + twenty + "\x1b[K" + wiped},
		{"a bar that was never drawn", progress.Config{Bar: true}, 0, wiped},
		{"no line before its time", progress.Config{Interval: time.Minute}, time.Minute - progress.BarInterval, ""},
		{"a line", progress.Config{Interval: time.Minute}, time.Minute, ten + "\n"},
		{"two lines", progress.Config{Interval: time.Minute}, 2 * time.Minute, ten + "\n" + twenty + "\n"},
		{"lines with nothing new", progress.Config{Interval: time.Minute}, time.Hour, ten + "\n" + twenty + "\n"},
		{"a line without an interval", progress.Config{}, progress.IntervalDefault, ten + "\n"},
		{"a line without a right interval", progress.Config{Interval: -1}, progress.IntervalDefault, ten + "\n"},
		{"quiet", progress.Config{Bar: true, Quiet: true}, time.Hour, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var b bytes.Buffer
				c.config.Out, c.config.State = &b, states(half(10), half(20))
				teller := progress.Start(c.config)
				<-time.After(c.after + progress.BarInterval/2)
				teller.Stop()
				teller.Stop()
				<-time.After(time.Hour) // no more writes after Stop
				if b.String() != c.want {
					t.Errorf("it has written\n got %q\nwant %q", b.String(), c.want)
				}
			})
		})
	}
}

// A lost writer fails every write.
type lost struct{ tries int }

func (l *lost) Write([]byte) (int, error) {
	l.tries++
	return 0, errors.New("broken pipe")
}

func TestOutputThatIsLostDoesNotStopTheWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		out := new(lost)
		teller := progress.Start(progress.Config{Out: out, State: states(half(10), half(20)), Interval: time.Second})
		<-time.After(time.Minute)
		teller.Stop()
		if out.tries != 2 {
			t.Errorf("%d lines were tried, want 2", out.tries)
		}
	})
}

func TestNumbersAreWrittenForPeople(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{
		0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000", -100: "-100",
		math.MaxInt64: "9,223,372,036,854,775,807", math.MinInt64: "-9,223,372,036,854,775,808",
	} {
		if got := progress.Count(n); got != want {
			t.Errorf("Count(%d) = %q, want %q", n, got, want)
		}
	}
	for n, want := range map[int64]string{
		0: "0", 1023: "1023", 1024: "1.0 Ki", 1536: "1.5 Ki", 1 << 20: "1.0 Mi", 5 << 30: "5.0 Gi", 1 << 40: "1.0 Ti", 1 << 52: "4096.0 Ti",
	} {
		if got := progress.Size(n); got != want {
			t.Errorf("Size(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestTerminalIsNoFile(t *testing.T) {
	t.Parallel()
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }() // the file is not used
	if progress.IsTerminal(file) || progress.IsTerminal(new(strings.Builder)) {
		t.Error("a file or a text is a terminal; want neither")
	}
}

func TestTerminalThatIsDumbIsNotDrawnOn(t *testing.T) { //nolint:paralleltest // it sets the environment
	device, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0) // a character device, like a terminal
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = device.Close() }() // nothing is written
	for term, want := range map[string]bool{"xterm": true, "dumb": false} {
		t.Setenv("TERM", term)
		if got := progress.IsTerminal(device); got != want {
			t.Errorf("with TERM=%s: a terminal is %t, want %t", term, got, want)
		}
	}
}
