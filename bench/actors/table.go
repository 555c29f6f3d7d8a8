package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
)

// rates holds operations per second, by work and contestant, with one value for each run.
type rates [][][]float64

// interleave makes every measurement in each of the runs: run by run, counted from 1, work
// by work, and one contestant after another.
func interleave(chosen []work, runs int, measure func(run int, c contestant, w work) (float64, error)) (rates, error) {
	all := make(rates, len(chosen))
	for i := range all {
		all[i] = make([][]float64, len(contestants))
	}
	for run := range runs {
		for i, w := range chosen {
			for j, c := range contestants {
				rate, err := measure(run+1, c, w)
				if err != nil {
					return nil, err
				}
				all[i][j] = append(all[i][j], rate)
			}
		}
	}
	return all, nil
}

// median returns the middle value, or the mean of the two middle values if their number is
// even.
func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	return (s[len(s)/2] + s[(len(s)-1)/2]) / 2
}

// writeTable prints the medians, and the ratio of our rate to each rival's.
func writeTable(out io.Writer, chosen []work, all rates, runs int) error {
	w := new(strings.Builder)
	fmt.Fprintf(w, "%s, %s/%s, %d of %d processors, %s; medians of %d, millions of operations a second\n\n",
		processor(), runtime.GOOS, runtime.GOARCH, runtime.GOMAXPROCS(0), runtime.NumCPU(), runtime.Version(), runs)
	fmt.Fprint(w, "| work |")
	for _, c := range contestants {
		fmt.Fprintf(w, " %s |", c.name)
	}
	for _, c := range contestants[1:] {
		fmt.Fprintf(w, " ÷ %s |", c.name)
	}
	fmt.Fprintf(w, "\n|---|%s\n", strings.Repeat("---:|", 2*len(contestants)-1))
	for i, work := range chosen {
		fmt.Fprintf(w, "| %s |", work.name)
		for j := range contestants {
			fmt.Fprintf(w, " %.2f |", median(all[i][j])/1e6)
		}
		for j := 1; j < len(contestants); j++ {
			fmt.Fprintf(w, " %.1f |", median(all[i][0])/median(all[i][j]))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if strings.HasSuffix(m.Path, "/protoactor-go") {
				fmt.Fprintf(w, "proto.actor is %s %s.\n", m.Path, m.Version)
			}
		}
	}
	_, err := io.WriteString(out, w.String())
	return err
}

// processor returns the name of the processor, if it can be found.
func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown processor"
	}
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.Trim(name, " \t:\n")
		}
	}
	return "unknown processor"
}
