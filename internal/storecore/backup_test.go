package storecore_test

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/memory"
)

// TestJudgeBackup expects that a backup with the damage of its log is kept, and no other.
func TestJudgeBackup(t *testing.T) {
	t.Parallel()
	damage := &store.CorruptError{What: "event", Reason: "test"}
	open := func(t *testing.T, damaged bool) *memory.Log {
		l := memory.New()
		b := &store.Batch{Key: store.Key{Kind: "book", ID: "a"}, Events: []store.Event{{ID: store.ID{1}, Type: "test.v1.Happened"}}}
		if results, err := l.Commit(t.Context(), []*store.Batch{b}); err != nil || results[0].Err != nil {
			t.Fatalf("commit: %v %v", err, results)
		}
		if damaged {
			if err := l.Corrupt(&b.Events[0], func(sealed []byte) { sealed[2] ^= 1 }); err != nil {
				t.Fatal(err)
			}
		}
		return l
	}
	for _, c := range []struct {
		name    string
		damaged bool
		report  *admin.Report
		failure error
		keep    bool
		want    string
	}{
		{"damage_of_the_log", true, &admin.Report{FaultCount: 1, Faults: []error{damage}}, damage, true, "has the same damage"},
		{"damage_of_the_log_that_keeps_it_from_opening", true, nil, damage, true, "cannot be opened"},
		{"damage_of_its_own", false, &admin.Report{FaultCount: 1, Faults: []error{damage}}, damage, false, "the log is not"},
		{"more_damage_than_the_log", true, &admin.Report{FaultCount: 9, Faults: []error{damage}}, damage, false, "has 9 faults"},
		{"another_failure", true, nil, io.ErrShortWrite, false, io.ErrShortWrite.Error()},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			keep, err := storecore.JudgeBackup(t.Context(), open(t, c.damaged), "path", c.report, c.failure, nil)
			if keep != c.keep || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, %v; want %v and an error with %q", keep, err, c.keep, c.want)
			}
			if _, ok := errors.AsType[*admin.DamagedBackupError](err); ok != c.keep {
				t.Errorf("error: got %T", err)
			}
		})
	}
}
