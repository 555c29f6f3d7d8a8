package linearize_test

import (
	"strings"
	"testing"
)

// A teller writes histories by hand. The ops do not overlap, unless a test sets an earlier
// beginning.
type teller struct {
	kind string
	log  []int64
	ops  []*op
	now  int64
}

// digest returns the digest of the log at a version.
func (w *teller) digest(version int) (d int64) {
	for _, n := range w.log[:min(version, len(w.log))] {
		d = mix(d, n)
	}
	return d
}

func (w *teller) tell(o *op) *op {
	w.now += 2
	o.Begin, o.End = w.now-1, w.now
	w.ops = append(w.ops, o)
	return o
}

// did adds a command whose last version is the given one.
func (w *teller) did(number int64, parts, version int) *op {
	return w.tell(&op{What: whatDeposit, Number: number, Parts: parts, Ending: endDone, Version: uint64(version), Digest: w.digest(version), Shows: true})
}

// saw adds a query that shows a version.
func (w *teller) saw(version int) *op {
	return w.tell(&op{What: whatQuery, Ending: endDone, Version: uint64(version), Digest: w.digest(version), Shows: true})
}

// right returns a correct history with one op of every sort.
func right() *teller {
	w := &teller{kind: ledgerKind, log: []int64{1, 2, 2, 4, 6}}
	w.saw(0)
	w.did(1, 1, 1)
	w.did(2, 2, 3)
	w.tell(&op{What: whatDeposit, Number: 3, Parts: 1, Ending: endNothing})
	w.tell(&op{What: whatDeposit, Number: 4, Parts: 1, Key: "a", Ending: endUnknown})
	w.tell(&op{What: whatDeposit, Number: 4, Parts: 1, Key: "a", Ending: endDone, Version: 4, Digest: w.digest(4), Shows: true})
	w.saw(4)
	w.tell(&op{What: whatDeposit, Number: 4, Parts: 1, Key: "a", Ending: endDone, Version: 4})
	w.tell(&op{What: whatDeposit, Number: 5, Parts: 1, Ending: endUnknown})
	w.tell(&op{What: whatDeposit, Number: 6, Parts: 1, Conditional: true, IfVersion: 4, Ending: endUnknown})
	w.tell(&op{What: whatDeposit, Number: 7, Parts: 1, Conditional: true, IfVersion: 3, Ending: endVersion, Version: 5})
	w.saw(5)
	return w
}

// refusing returns a number after which a Withdraw is refused, or accepted.
func refusing(refused bool) int64 {
	for n := int64(1); ; n++ {
		if refuses(mix(0, n)) == refused {
			return n
		}
	}
}

func TestCheckerAcceptsRightHistories(t *testing.T) {
	t.Parallel()
	w := right()
	if err := checkEntity(w.kind, w.log, w.ops); err != nil {
		t.Error(err)
	}
	if decided, err := linearizable(t, w.kind, "right", w.log, w.ops); err != nil || !decided {
		t.Errorf("porcupine: %v, decided: %t", err, decided)
	}
}

// TestCheckerFindsWrongHistories has one mistake in each history. If the mistake shows without
// the log, porcupine must catch it as well.
func TestCheckerFindsWrongHistories(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		history func() *teller
		want    string
		seen    bool // the answers alone show the mistake
	}{
		{"an acknowledged command is lost", func() *teller {
			w := &teller{kind: ledgerKind, log: []int64{1}}
			w.did(1, 1, 1)
			w.tell(&op{What: whatDeposit, Number: 2, Parts: 1, Ending: endDone, Version: 2})
			w.saw(1)
			return w
		}, "ends at version 1", true},
		{"an acknowledged command is replaced", func() *teller {
			w := &teller{kind: ledgerKind, log: []int64{1, 3}}
			w.did(1, 1, 1)
			w.tell(&op{What: whatDeposit, Number: 2, Parts: 1, Ending: endDone, Version: 2})
			w.tell(&op{What: whatDeposit, Number: 3, Parts: 1, Ending: endDone, Version: 2})
			return w
		}, "is not in the log", true},
		{"a command is there twice", func() *teller {
			w := &teller{kind: ledgerKind, log: []int64{1, 2, 1}}
			w.did(1, 1, 1)
			w.did(2, 1, 2)
			w.saw(3)
			return w
		}, "and again version 3", true},
		{"an unknown command is there twice", func() *teller {
			w := &teller{kind: ledgerKind, log: []int64{1, 1}}
			w.tell(&op{What: whatDeposit, Number: 1, Parts: 1, Ending: endUnknown})
			w.saw(2)
			return w
		}, "and again version 2", true},
		{"a command with a key is applied twice", func() *teller {
			w := &teller{kind: ledgerKind, log: []int64{1, 1}}
			for v := range 2 {
				w.tell(&op{What: whatDeposit, Number: 1, Parts: 1, Key: "a", Ending: endDone, Version: uint64(v + 1)})
			}
			return w
		}, "and again version 2", false},
		{"a repetition is told another version", func() *teller {
			w := &teller{kind: ledgerKind, log: []int64{1, 2}}
			w.tell(&op{What: whatDeposit, Number: 1, Parts: 1, Key: "a", Ending: endDone, Version: 1})
			w.did(2, 1, 2)
			w.tell(&op{What: whatDeposit, Number: 1, Parts: 1, Key: "a", Ending: endDone, Version: 2})
			return w
		}, "is in the log as version 1", false},
		{"a command is half stored", func() *teller {
			w := &teller{kind: ledgerKind, log: []int64{1, 1}}
			w.tell(&op{What: whatDeposit, Number: 1, Parts: 3, Ending: endUnknown})
			w.saw(2)
			return w
		}, "made 2 of 3 versions", true},
		{"a command is told a version that is another's", func() *teller {
			w := &teller{kind: ledgerKind, log: []int64{1, 2}}
			w.did(1, 1, 2)
			w.did(2, 1, 1)
			return w
		}, "is in the log as version", true},
		{"a command that failed is stored", func() *teller {
			w := &teller{kind: ledgerKind, log: []int64{1}}
			w.tell(&op{What: whatDeposit, Number: 1, Parts: 1, Ending: endNothing})
			w.saw(1)
			return w
		}, "is in the log as version 1", true},
		{"a command with a key that failed each time is stored", func() *teller {
			w := &teller{kind: ledgerKind, log: []int64{1}}
			for range 2 {
				w.tell(&op{What: whatDeposit, Number: 1, Parts: 1, Key: "a", Ending: endNothing})
			}
			return w
		}, "all its calls have failed", false},
		{"a refused command is stored", func() *teller {
			n := refusing(false)
			w := &teller{kind: ledgerKind, log: []int64{n, 100}}
			w.did(n, 1, 1)
			w.tell(&op{What: whatWithdraw, Number: 100, Ending: endRefused, Version: 1})
			w.saw(2)
			return w
		}, "no reason to refuse", true},
		{"a command that must be refused is stored", func() *teller {
			n := refusing(true)
			w := &teller{kind: ledgerKind, log: []int64{n, 100}}
			w.did(n, 1, 1)
			w.tell(&op{What: whatWithdraw, Number: 100, Ending: endDone, Version: 2})
			return w
		}, "version 1 refuses it", true},
		{"a refusal has no reason", func() *teller {
			w := &teller{kind: ledgerKind}
			w.tell(&op{What: whatWithdraw, Number: 1, Ending: endRefused})
			return w
		}, "no reason to refuse", true},
		{"a wanted version is not looked at", func() *teller {
			w := &teller{kind: ledgerKind, log: []int64{1, 2}}
			w.did(1, 1, 1)
			w.did(2, 1, 2).Conditional = true
			return w
		}, "made version 2", true},
		{"a wanted version is refused though it is there", func() *teller {
			w := &teller{kind: ledgerKind}
			w.tell(&op{What: whatDeposit, Number: 1, Parts: 1, Conditional: true, Ending: endVersion})
			return w
		}, "is at the version that was wanted", true},
		{"a refusal for a wanted version is stored", func() *teller {
			w := &teller{kind: ledgerKind, log: []int64{1, 2}}
			w.did(1, 1, 1)
			w.tell(&op{What: whatDeposit, Number: 2, Parts: 1, Conditional: true, IfVersion: 1, Ending: endVersion, Version: 0})
			return w
		}, "", true},
		{"a command that nobody has sent is stored", func() *teller {
			w := &teller{kind: ledgerKind, log: []int64{9}}
			w.saw(1)
			return w
		}, "no client has sent", true},
		{"a query misses what was acknowledged", func() *teller {
			w := &teller{kind: ledgerKind, log: []int64{1, 2}}
			w.did(1, 1, 1)
			w.did(2, 1, 2)
			w.saw(1)
			return w
		}, "had seen or made version 2", true},
		{"a query goes back behind another", func() *teller {
			w := &teller{kind: ledgerKind, log: []int64{1}}
			w.tell(&op{What: whatDeposit, Number: 1, Parts: 1, Ending: endUnknown})
			w.saw(1)
			w.saw(0)
			return w
		}, "had seen or made version 1", true},
		{"a query sees what has not begun", func() *teller {
			w := &teller{kind: ledgerKind, log: []int64{1}}
			w.saw(1)
			w.did(1, 1, 1)
			return w
		}, "had seen or made version 1", true},
		{"a query shows what never was", func() *teller {
			w := &teller{kind: ledgerKind, log: []int64{1}}
			w.did(1, 1, 1)
			w.saw(1).Digest++
			return w
		}, "shows the digest", true},
		{"a command shows what it did not lead to", func() *teller {
			w := &teller{kind: shelfKind, log: []int64{1, 2}}
			w.did(1, 3, 1)
			w.did(2, 1, 2).Digest++
			return w
		}, "shows the digest", true},
		{"a command overtakes one that was over", func() *teller {
			w := &teller{kind: ledgerKind, log: []int64{2, 1}}
			w.tell(&op{What: whatDeposit, Number: 1, Parts: 1, Ending: endDone, Version: 2})
			w.tell(&op{What: whatDeposit, Number: 2, Parts: 1, Ending: endDone, Version: 1})
			return w
		}, "saw version 0", true},
		{"a refusal tells of the past", func() *teller {
			n := refusing(true)
			w := &teller{kind: ledgerKind, log: []int64{n, 100}}
			w.did(n, 1, 1)
			w.did(100, 1, 2)
			w.tell(&op{What: whatWithdraw, Number: 101, Ending: endRefused, Version: 1})
			return w
		}, "had seen or made version 2", true},
		{"a key is another command's", func() *teller {
			w := &teller{kind: ledgerKind}
			w.tell(&op{What: whatDeposit, Number: 1, Parts: 1, Key: "a", Ending: endConflict})
			return w
		}, "no other command has that key", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := c.history()
			err := checkEntity(w.kind, w.log, w.ops)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("checker: got %v, want it to say %q\nlog: %v\nhistory: %v", err, c.want, w.log, w.ops)
			}
			if !c.seen {
				return
			}
			if decided, err := linearizable(t, w.kind, "wrong", w.log, w.ops); err == nil {
				t.Errorf("porcupine has found an order, decided: %t\nhistory: %v", decided, w.ops)
			}
		})
	}
}
