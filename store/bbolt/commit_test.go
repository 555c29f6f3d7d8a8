package bbolt_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/storetest/embeddedtest"
)

func TestCommitOfAGroupThatChangesNothingIsNotWritten(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	commit(t, l, happened(book("1"), 0, 3))
	before := read(t, l.Path())
	embeddedtest.CommitNothing(t, l)
	if !bytes.Equal(before, read(t, l.Path())) {
		t.Errorf("%s has changed", l.Path())
	}
}

func TestCommitThatFailsBreaksTheLogUntilItIsOpenedAgain(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	commit(t, l, happened(book("1"), 0, 1))
	if err := l.CloseFile(); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	_, err := l.Commit(ctx, []*store.Batch{happened(book("1"), 1, 1)})
	wantIs(t, err, store.ErrBroken)
	if errors.Is(err, store.ErrNotStored) {
		t.Errorf("error of the failed commit: got %v, want one that leaves the outcome open", err)
	}
	_, err = l.Commit(ctx, []*store.Batch{happened(book("1"), 1, 1)})
	wantIs(t, err, store.ErrBroken, store.ErrNotStored)
	_, err = collect(l.Load(ctx, book("1"), nil))
	wantIs(t, err, store.ErrBroken)
	_, err = l.Heads(ctx)
	wantIs(t, err, store.ErrBroken)
	_ = l.Close() // it cannot close the file once more

	l = openAt(t, l.Path())
	wantVersions(t, versions(t, l.Read(ctx, book("1"), 0)), span(1, 1))
	commit(t, l, happened(book("1"), 1, 1))
}
