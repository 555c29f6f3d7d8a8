package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestContendersDoEveryWork runs each measurement at a small size. A run ends only
// when all messages are handled, and fails if an answer is wrong.
func TestContendersDoEveryWork(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: it measures")
	}
	for _, w := range works {
		for _, c := range contestants {
			t.Run(w.name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				trial, operations := w.prep(c, 100)
				if err := trial.run(); err != nil {
					t.Errorf("run: %v", err)
				}
				if err := trial.end(); err != nil {
					t.Errorf("end: %v", err)
				}
				if operations < 64 {
					t.Errorf("%d operations for 100 that were asked for, want about that or more", operations)
				}
			})
		}
	}
}

func TestLoadSaysHowManyMessagesEachReceiverGets(t *testing.T) {
	t.Parallel()
	for name, order := range map[string]func(parties, int) []uint32{"in turn": inTurn, "at random": atRandom} {
		l, messages := newLoad(parties{senders: 3, receivers: 100}, order, 50_000)
		got := make([]uint64, l.receivers)
		for i := range l.orders {
			err := l.each(i, func(r uint32, _ uint64) error {
				got[r]++
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		sum := uint64(0)
		for _, n := range got {
			sum += n
		}
		if want := l.want(); !slices.Equal(got, want) {
			t.Errorf("%s: messages for each receiver\n got: %v\nwant: %v", name, got, want)
		}
		if sum != uint64(messages) || messages < 50_000 {
			t.Errorf("%s: %d messages are sent and %d announced, want the same and 50000 at least", name, sum, messages)
		}
	}
}

func TestLoadEndsWithTheFirstError(t *testing.T) {
	t.Parallel()
	l, _ := newLoad(parties{1, 1}, inTurn, 1)
	broken := errors.New("broken")
	sent := 0
	err := l.each(0, func(uint32, uint64) error {
		if sent++; sent == 3 {
			return broken
		}
		return nil
	})
	if !errors.Is(err, broken) || sent != 3 {
		t.Errorf("each: %v after %d messages, want %v after 3", err, sent, broken)
	}
}

func TestWrongAnswersAreErrors(t *testing.T) {
	t.Parallel()
	if err := wrongSum(10, 45); err != nil {
		t.Errorf("wrongSum(10, 45): %v, want nil", err)
	}
	if err := wrongSum(10, 44); err == nil {
		t.Error("wrongSum(10, 44): nil, want an error")
	}
}

func TestMeasurementsTakeTurns(t *testing.T) {
	t.Parallel()
	chosen := works[:2]
	var got []string
	all, err := interleave(chosen, 2, func(run int, c contestant, w work) (float64, error) {
		got = append(got, fmt.Sprint(run, " ", w.name, " ", c.name))
		return float64(len(got)), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for run := 1; run <= 2; run++ {
		for _, w := range chosen {
			for _, c := range contestants {
				want = append(want, fmt.Sprint(run, " ", w.name, " ", c.name))
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("order of measurements\n got: %q\nwant: %q", got, want)
	}
	if got, want := all[1][2], []float64{6, 12}; !slices.Equal(got, want) {
		t.Errorf("rates of %s, %s: %v, want %v", chosen[1].name, contestants[2].name, got, want)
	}
	failed := errors.New("failed")
	if _, err = interleave(chosen, 2, func(int, contestant, work) (float64, error) { return 0, failed }); !errors.Is(err, failed) {
		t.Errorf("interleave: %v, want %v", err, failed)
	}
}

func TestTableShowsMediansAndRatios(t *testing.T) {
	t.Parallel()
	all := rates{{{9e6, 1e6, 6e6}, {2e6, 3e6, 1e6}, {4e6, 4e6, 4e6}}}
	var out bytes.Buffer
	if err := writeTable(&out, works[:1], all, 3); err != nil {
		t.Fatal(err)
	}
	const want = "| tell 1-1 | 6.00 | 2.00 | 4.00 | 3.0 | 1.5 |\n"
	if !strings.Contains(out.String(), want) {
		t.Errorf("table\n got: %s\nwant a line: %s", out.String(), want)
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("median of 4, 1, 3, 2: %v, want 2.5", got)
	}
}

func TestCommandRefusesMistakes(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"-runs", "0"},
		{"-runs", "1001"},
		{"-only", "("},
		{"-only", "no such work"},
		{"-measure", "perdure"},
		{"-measure", "nobody/ask 1-1"},
		{"stray"},
		{"-unknown"},
	} {
		var out bytes.Buffer
		if err := run(t.Context(), args, &out, io.Discard); err == nil || errors.Is(err, flag.ErrHelp) || out.Len() > 0 {
			t.Errorf("actors %q: error %v and output %q, want an error and nothing", args, err, out.String())
		}
	}
}

func TestMeasurementThatIsSinglePrintsItsRate(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-measure", "perdure/ask 1-1"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	if rate, err := strconv.ParseFloat(strings.TrimSpace(out.String()), 64); err != nil || rate <= 0 {
		t.Errorf("it printed %q, want a rate", out.String())
	}
}

// Run it with
//
//	go test -run '^$' -bench . ./actors
//
// in the directory of the module. The command gives a better comparison: its measurements
// do not share a heap.
func BenchmarkActors(b *testing.B) {
	for _, w := range works {
		for _, c := range contestants {
			b.Run(w.name+"/"+c.name, func(b *testing.B) {
				b.ReportAllocs()
				trial, operations := w.prep(c, b.N)
				b.ResetTimer()
				if err := trial.run(); err != nil {
					b.Error(err)
				}
				b.StopTimer()
				b.ReportMetric(float64(operations)/b.Elapsed().Seconds()/1e6, "Mops/s")
				if err := trial.end(); err != nil {
					b.Error(err)
				}
			})
		}
	}
}
