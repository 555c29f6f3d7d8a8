package linearize_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// porcupineMax bounds the search for an order of one entity's ops. Most searches take
// milliseconds. Ops with an unknown outcome, which may take effect at any time, can make a
// search long.
const porcupineMax = 3 * time.Second

// A sequential is the state of an entity in porcupine's model.
type sequential struct {
	version uint64
	digest  int64
}

// An answer is the output of an op for porcupine.
type answer struct {
	ending  ending
	version uint64
	digest  int64
	shows   bool
}

// model returns the model of an entity that executes one call after another.
func model(kind string) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return sequential{} },
		Step: func(state, input, output any) (bool, any) {
			s, o, a := state.(sequential), input.(*op), output.(answer)
			next, does := step(kind, s, o)
			switch {
			case a.ending == endUnknown:
				return true, next
			case a.ending != does, a.version != next.version, a.shows && a.digest != next.digest:
				return false, s
			}
			return true, next
		},
		DescribeOperation: func(input, output any) string {
			return fmt.Sprintf("%v: %+v", input, output)
		},
		DescribeState: func(state any) string {
			s := state.(sequential)
			return fmt.Sprintf("version %d, digest %x", s.version, uint64(s.digest))
		},
	}
}

// step returns the next state and the ending of an op in a state.
func step(kind string, s sequential, o *op) (sequential, ending) {
	switch {
	case o.Conditional && o.IfVersion != s.version:
		return s, endVersion
	case o.What == whatWithdraw && refuses(s.digest):
		return s, endRefused
	}
	for range versionsOf(kind, o) {
		s = sequential{s.version + 1, mix(s.digest, o.Number)}
	}
	return s, endDone
}

// operations returns the ops that porcupine must put in an order. The calls of one command
// are one op, as in a checker. Two sorts of ops are left out, because they did not happen:
// ops that failed with nothing stored, and ops with an unknown outcome that are not in the
// log. Porcupine gets no other information from the log. Without this it would try each
// such op at every place.
func operations(log []int64, ops []*op) (list []porcupine.Operation) {
	at := make(map[int64]int) // index in list, by number
	held := make(map[int64]bool)
	for _, n := range log {
		held[n] = true
	}
	for _, o := range ops {
		if o.Ending == endRefused {
			held[o.Number] = true // a command with a key may have been refused by an earlier call
		}
	}
	for _, o := range ops {
		if o.Ending == endNothing || o.Ending == endUnknown && !held[o.Number] {
			continue
		}
		a := answer{o.Ending, o.Version, o.Digest, o.Shows}
		end := o.End
		if o.Ending == endUnknown {
			end = never
		}
		i, known := at[o.Number]
		switch {
		case !o.writes() || !known:
			if o.writes() {
				at[o.Number] = len(list)
			}
			list = append(list, porcupine.Operation{ClientId: o.Client, Input: o, Call: o.Begin, Output: a, Return: end})
		case end < list[i].Return:
			list[i].Output, list[i].Return = a, end
		}
	}
	return list
}

// linearizable asks porcupine. An error means that no order exists; decided is false if the
// search did not end in time.
func linearizable(t *testing.T, kind, name string, log []int64, ops []*op) (decided bool, err error) {
	t.Helper()
	m := model(kind)
	result, info := porcupine.CheckOperationsVerbose(m, operations(log, ops), porcupineMax)
	switch result {
	case porcupine.Ok:
		return true, nil
	case porcupine.Unknown:
		return false, nil
	}
	path := filepath.Join(t.ArtifactDir(), name+".html")
	if dir := os.Getenv("PERDURE_PROOF_DIR"); dir != "" {
		path = filepath.Join(dir, name+".html")
	}
	if err := porcupine.VisualizePath(m, info, path); err != nil {
		t.Errorf("visualise the history: %v", err)
	}
	return true, fmt.Errorf("there is no order of the calls in which they could have been answered so; see %s", path)
}
