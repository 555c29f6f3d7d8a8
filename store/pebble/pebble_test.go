package pebble_test

import (
	"errors"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/pebble"
	"github.com/perdure/perdure/store/storetest"
)

func options(s storetest.Setup) []pebble.Option {
	opts := []pebble.Option{pebble.WithPartitions(max(s.Partitions, 1))}
	if s.Clock != nil {
		opts = append(opts, pebble.WithClock(s.Clock))
	}
	return opts
}

func TestLogPassesTheSuite(t *testing.T) {
	t.Parallel()
	open := func(t testing.TB, s storetest.Setup) store.Log {
		l := openAt(t, newDir(t), options(s)...)
		l.Pause(s.Pause)
		return l
	}
	reopen := func(t testing.TB, l store.Log, s storetest.Setup) store.Log {
		if err := l.Close(); err != nil && !errors.Is(err, store.ErrClosed) {
			t.Fatalf("close: %v", err)
		}
		return openAt(t, l.(*pebble.Log).Path(), options(s)...)
	}
	storetest.Run(t, open, storetest.Features{
		Catalog: true, Pruner: true, Outbox: true, Receipts: true, Claims: true,
		Bookmarks: true, Statistics: true, Exclusive: true,
		Partitions: true, Clock: true, Pause: true,
		Exporter: true, Importer: true,
		Reopen: reopen,
		Damage: func(t testing.TB, l store.Log, record any, flip func([]byte)) store.Log {
			path := l.(*pebble.Log).Path()
			heads, err := l.Heads(t.Context())
			if err != nil {
				t.Fatalf("heads: %v", err)
			}
			closeLog(t, l)
			if err := pebble.Damage(path, record, flip); err != nil {
				t.Fatalf("damage: %v", err)
			}
			return openAt(t, path, pebble.WithPartitions(len(heads)))
		},
	})
}
