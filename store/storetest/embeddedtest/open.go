package embeddedtest

import (
	"context"
	"testing"

	"github.com/perdure/perdure/store"
)

func logKeepsItsPartitionsAndItsID(t *testing.T, s Store) {
	l := s.openNew(t, 7)
	before, err := l.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	CloseLog(t, l)
	_, err = s.Open(l.Path(), 1)
	WantIs(t, err, store.ErrInvalid)
	l = s.openAt(t, l.Path()) // without the option
	after, err := l.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if after.Info != before.Info || after.Info.Partitions != 7 {
		t.Errorf("info: got %+v, want %+v with 7 partitions", after.Info, before.Info)
	}
}

func callsAfterCloseReturnErrClosed(t *testing.T, s Store) {
	l := s.openNew(t, 1)
	Commit(t, l, Happened(Book("1"), 0, 1))
	CloseLog(t, l)
	ctx := context.Background()
	_, commitErr := l.Commit(ctx, []*store.Batch{Happened(Book("1"), 1, 1)})
	WantIs(t, commitErr, store.ErrClosed, store.ErrNotStored)
	_, readErr := Collect(l.Read(ctx, Book("1"), 0))
	WantIs(t, readErr, store.ErrClosed)
	_, scanErr := Collect(l.Scan(ctx, store.Query{}))
	WantIs(t, scanErr, store.ErrClosed)
	_, headsErr := l.Heads(ctx)
	WantIs(t, headsErr, store.ErrClosed)
	_, acquireErr := l.Acquire()
	WantIs(t, acquireErr, store.ErrClosed)
	WantIs(t, l.Close(), store.ErrClosed)
}
