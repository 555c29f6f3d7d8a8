package admin_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"testing"

	"github.com/perdure/perdure/internal/testlog"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/memory"
)

// filledLog returns a log with some entities, and the positions of their events.
func filledLog(t testing.TB, entities, events int) *memory.Log {
	t.Helper()
	l := memory.New()
	for i := range entities {
		b := &store.Batch{Key: store.Key{Kind: "book", ID: fmt.Sprint(i)}}
		for v := range events {
			b.Events = append(b.Events, store.Event{ID: store.ID{1, byte(i), byte(v)}, Type: "test.v1.Happened"})
		}
		b.Snapshot = &store.State{ID: store.ID{2, byte(i)}, Type: "test.v1.State"}
		results, err := l.Commit(t.Context(), []*store.Batch{b})
		if err != nil || results[0].Err != nil {
			t.Fatalf("commit: %v %v", err, results)
		}
	}
	return l
}

// A changed log exports other records than it holds.
type changedLog struct {
	*memory.Log
	change func(store.RecordKind, store.Record) store.Record
	origin func(*store.Origin)
}

type changedExport struct {
	store.Export
	l *changedLog
}

func (l *changedLog) Export(ctx context.Context) (store.Export, error) {
	e, err := l.Log.Export(ctx)
	return changedExport{e, l}, err
}

func (e changedExport) Origin() store.Origin {
	o := e.Export.Origin()
	if e.l.origin != nil {
		e.l.origin(&o)
	}
	return o
}

func (e changedExport) Records(ctx context.Context, s store.RecordKind) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		for r, err := range e.Export.Records(ctx, s) {
			if err == nil && e.l.change != nil {
				if r = e.l.change(s, r); r == nil {
					continue
				}
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

func TestLogThatCannotBeExportedIsNeitherVerifiedNorCopied(t *testing.T) {
	t.Parallel()
	whole, bare := memory.New(), testlog.Bare(memory.New())
	for what, do := range map[string]func() error{
		"verify": func() error { _, err := admin.Verify(t.Context(), bare, admin.VerifyOptions{}); return err },
		"digest": func() error { _, err := admin.NewDigest(t.Context(), bare, nil); return err },
		"copy from": func() error {
			_, err := admin.Copy(t.Context(), bare, whole, nil)
			return err
		},
		"copy to": func() error { _, err := admin.Copy(t.Context(), whole, bare, nil); return err },
		"backup":  func() error { return admin.Backup(t.Context(), whole, "x", admin.BackupOptions{}) },
	} {
		if err := do(); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: got %v, want an error that matches %v", what, err, errors.ErrUnsupported)
		}
	}
}
