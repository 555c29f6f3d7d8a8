package linearize_test

import (
	"fmt"
	"math"
	"slices"
)

// never is the End of an op with an unknown outcome: the command may take effect at any
// time after its beginning.
const never = math.MaxInt64

// A checker decides whether the history of one entity keeps the promises, given the final
// log: the number of the command that made each version. It takes one pass over the log and
// one over the history, after sorting the history by time.
//
// One op counts for each command in the log, whatever its clients were told, and one for
// each answer that changed nothing (queries, states, refusals, commands that do nothing,
// wrong versions). The calls of one command, which share a key, are one op: from the first
// call that did not fail with nothing stored, to the first answer. The end of an op with an
// unknown outcome is never. Ops that are not in the log and have no answer are left out:
// they did not happen, and the log does not change any more.
//
// It checks
//
//  1. that the log is a run of the entity: versions without a gap, each command one that a
//     client has sent, whole, once, accepted by the state before it, and at the version
//     that it required;
//  2. that a command answered as done made exactly the version in the answer, however often
//     it was sent, and that a command that was refused, or failed with nothing stored, made
//     none;
//  3. that an answer shows the state of the version in the answer, and that the state of a
//     refusal is a reason to refuse;
//  4. that no op misses an op that had ended before it began: the version that it saw (or,
//     for a command, found) is not below the version of any op that ended before it began.
//
// This proves that the history is linearizable. Put the ops in the order of their versions,
// at the same version first the command that made it, then the others in the order of their
// beginnings. By 1 to 3 each op does and shows in this order what it did and showed. And
// the order respects time: let A end before B begins. If B is a command, 4 says that A's
// version is at most the one that B found, so A comes before B. If B is not a command, A's
// version is at most B's: if it is below, or A is the command that made it, A comes first;
// otherwise both are reads, and A began first. An op cannot show a command that began only
// after the op had ended: that command would have found a version below that of an op that
// had ended, against 4.
//
// Conversely a linearizable history passes: its order can only be the order of the
// versions, and then 4 follows from real time.
type checker struct {
	kind    string
	log     []int64 // command numbers of version 1, 2, …
	digests []int64 // digests after version 0, 1, 2, …
	ops     []*op

	commands map[int64]*command
	timed    []timed
}

// A command is all calls with one number, and the command's place in the log.
type command struct {
	number      int64
	calls       []*op
	first, last uint64 // its versions; 0 if the log does not hold it
	begin, end  int64
	answer      *op // the first answer
}

// A timed is an op that counts: the version that it found, the version that it led to, and
// its times.
type timed struct {
	found, left uint64
	begin, end  int64
	op          *op
}

// checkEntity returns the first broken promise in a history as an error, or nil.
func checkEntity(kind string, log []int64, ops []*op) error {
	j := &checker{kind: kind, log: log, ops: ops, commands: make(map[int64]*command)}
	for _, step := range []func() error{j.collect, j.replay, j.answers, j.order} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// collect groups the calls by command.
func (j *checker) collect() error {
	for _, o := range j.ops {
		if !o.writes() {
			continue
		}
		c := j.commands[o.Number]
		if c == nil {
			c = &command{number: o.Number, begin: never, end: never}
			j.commands[o.Number] = c
		}
		if len(c.calls) > 0 && (o.Key == "" || c.calls[0].Key != o.Key || c.calls[0].What != o.What || c.calls[0].Parts != o.Parts) {
			return fmt.Errorf("the history is not one: %v and %v have one number", c.calls[0], o)
		}
		c.calls = append(c.calls, o)
		if o.Ending != endNothing && o.Ending != endVersion {
			c.begin = min(c.begin, o.Begin)
		}
		if o.Ending == endDone || o.Ending == endRefused {
			if o.End < c.end {
				c.end, c.answer = o.End, o
			}
		}
	}
	return nil
}

// replay checks that the log is a run of the entity (1).
func (j *checker) replay() error {
	j.digests = append(j.digests, 0)
	for v := 0; v < len(j.log); {
		c := j.commands[j.log[v]]
		if c == nil {
			return fmt.Errorf("version %d was made by command %d, which no client has sent", v+1, j.log[v])
		}
		o := c.calls[0]
		switch {
		case c.first != 0:
			return fmt.Errorf("%v made versions %d to %d and again version %d", o, c.first, c.last, v+1)
		case o.What == whatWithdraw && refuses(j.digests[v]):
			return fmt.Errorf("%v made version %d, and version %d refuses it", o, v+1, v)
		case o.Conditional && o.IfVersion != uint64(v):
			return fmt.Errorf("%v made version %d", o, v+1)
		}
		n := versionsOf(j.kind, o)
		for i := range n {
			if v+i >= len(j.log) || j.log[v+i] != c.number {
				return fmt.Errorf("%v made %d of %d versions from %d on", o, i, n, v+1)
			}
			j.digests = append(j.digests, mix(j.digests[v+i], c.number))
		}
		c.first, c.last = uint64(v+1), uint64(v+n)
		v += n
	}
	return nil
}

// answers checks the answers (2, 3), and collects the ops that count.
func (j *checker) answers() error {
	for _, o := range j.ops {
		c := j.commands[o.Number]
		switch {
		case o.Ending == endUnknown:
			continue
		case o.Ending == endConflict:
			return fmt.Errorf("%v: no other command has that key", o)
		case o.Ending == endNothing:
			if c != nil && c.first != 0 && len(c.calls) == 1 {
				return fmt.Errorf("%v is in the log as version %d", o, c.last)
			}
			continue
		case o.Version >= uint64(len(j.digests)):
			return fmt.Errorf("%v: the log ends at version %d", o, len(j.log))
		case o.Shows && o.Digest != j.digests[o.Version]:
			return fmt.Errorf("%v shows the digest %x; that of the version is %x", o, uint64(o.Digest), uint64(j.digests[o.Version]))
		}
		read := timed{found: o.Version, left: o.Version, begin: o.Begin, end: o.End, op: o}
		switch o.Ending {
		case endVersion:
			if !o.Conditional || o.IfVersion == o.Version {
				return fmt.Errorf("%v: it is at the version that was wanted", o)
			}
			if len(c.calls) == 1 && c.first != 0 {
				return fmt.Errorf("%v is in the log as version %d", o, c.last)
			}
			j.timed = append(j.timed, read)
		case endRefused:
			if !o.writes() || o.What != whatWithdraw || !refuses(j.digests[o.Version]) {
				return fmt.Errorf("%v: there is no reason to refuse", o)
			}
			if c.first != 0 {
				return fmt.Errorf("%v is in the log as version %d", o, c.last)
			}
			if c.answer.Version != o.Version || c.answer.Ending != o.Ending {
				return fmt.Errorf("%v was answered before: %v", o, c.answer)
			}
			if c.answer == o {
				read.begin = c.begin
				j.timed = append(j.timed, read)
			}
		case endDone:
			if !o.writes() {
				j.timed = append(j.timed, read)
				continue
			}
			if c.first == 0 {
				return fmt.Errorf("%v is not in the log", o)
			}
			if o.Version != c.last {
				return fmt.Errorf("%v is in the log as version %d", o, c.last)
			}
		}
	}
	for _, c := range j.commands {
		if c.first != 0 {
			if c.begin == never {
				return fmt.Errorf("%v is in the log as version %d, and all its calls have failed", c.calls[0], c.last)
			}
			j.timed = append(j.timed, timed{found: c.first - 1, left: c.last, begin: c.begin, end: c.end, op: c.calls[0]})
		}
	}
	return nil
}

// order checks that no op misses an op that had ended before it began (4). It goes through
// all times in order and keeps the highest version of an op that has ended.
func (j *checker) order() error {
	byEnd := slices.Clone(j.timed)
	slices.SortFunc(byEnd, func(a, b timed) int { return compare(a.end, b.end) })
	slices.SortFunc(j.timed, func(a, b timed) int { return compare(a.begin, b.begin) })
	var over timed
	next := 0
	for _, b := range j.timed {
		for ; next < len(byEnd) && byEnd[next].end < b.begin; next++ {
			if byEnd[next].left >= over.left {
				over = byEnd[next]
			}
		}
		if over.op != nil && over.left > b.found {
			return fmt.Errorf("%v saw version %d, and %v had seen or made version %d before it began", b.op, b.found, over.op, over.left)
		}
	}
	return nil
}

func compare(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
