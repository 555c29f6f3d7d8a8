// Command actors compares the actors of this repository with those of Proto.Actor and with
// goroutines that read plain channels, at the same work:
//
//	go run ./bench/actors [-runs 5] [-only regexp]
//
// Every measurement has a process of its own, so that they do not share a heap. In each
// run, work after work, the contenders take turns, so that other load on the machine
// affects all of them alike. The table shows medians, in millions of operations a second,
// and the ratio of our rate to each rival's. An operation is one message handled (tell),
// one answer (ask), one message of either side (ping-pong), one actor (spawn) or one leaf
// of the tree (skynet).
//
// A single measurement with a CPU profile:
//
//	go run ./bench/actors -measure 'perdure/ask 1-1' -cpuprofile cpu.prof
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime/pprof"
	"strconv"
	"strings"
)

// runsMax bounds -runs.
const runsMax = 1000

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintf(os.Stderr, "actors: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	flags := flag.NewFlagSet("actors", flag.ContinueOnError)
	flags.SetOutput(progress)
	runs := flags.Int("runs", 5, "how often each measurement is made")
	only := flags.String("only", "", "measure only the work whose name matches this regular `expression`")
	single := flags.String("measure", "", "make one measurement, `contender/work`, and print operations a second")
	profile := flags.String("cpuprofile", "", "with -measure: write a profile of it to this `file`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if *single != "" {
		return measureOne(*single, *profile, out)
	}
	if *runs < 1 || *runs > runsMax {
		return fmt.Errorf("-runs is %d, want 1 to %d", *runs, runsMax)
	}
	matches, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	var chosen []work
	for _, w := range works {
		if matches.MatchString(w.name) {
			chosen = append(chosen, w)
		}
	}
	if len(chosen) == 0 {
		return fmt.Errorf("-only %q matches no work", *only)
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	rates, err := interleave(chosen, *runs, func(run int, c contestant, w work) (float64, error) {
		if _, err := fmt.Fprintf(progress, "run %d of %d: %s, %s\n", run, *runs, w.name, c.name); err != nil {
			return 0, err
		}
		return inProcess(ctx, program, c, w)
	})
	if err != nil {
		return err
	}
	return writeTable(out, chosen, rates, *runs)
}

// measureOne makes the single measurement of this process.
func measureOne(name, profile string, out io.Writer) (err error) {
	c, w, err := find(name)
	if err != nil {
		return err
	}
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			return fmt.Errorf("write profile: %w", err)
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		if err := pprof.StartCPUProfile(f); err != nil {
			return fmt.Errorf("write profile: %w", err)
		}
		defer pprof.StopCPUProfile()
	}
	rate, err := measure(c, w)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%.0f\n", rate)
	return err
}

// find returns the contestant and the work in a name of the form contender/work.
func find(name string) (contestant, work, error) {
	who, what, _ := strings.Cut(name, "/")
	for _, c := range contestants {
		for _, w := range works {
			if c.name == who && w.name == what {
				return c, w, nil
			}
		}
	}
	return contestant{}, work{}, fmt.Errorf("no measurement is called %q", name)
}

// inProcess makes a measurement in a process of its own.
func inProcess(ctx context.Context, program string, c contestant, w work) (float64, error) {
	name := c.name + "/" + w.name
	cmd := exec.CommandContext(ctx, program, "-measure", name)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("measure %s: %w", name, err)
	}
	rate, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
	if err != nil {
		return 0, fmt.Errorf("measure %s: it printed %q: %w", name, out, err)
	}
	return rate, nil
}
