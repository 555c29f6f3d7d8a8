package bbolt_test

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
	"github.com/perdure/perdure/store/storetest"
)

func options(s storetest.Setup) []bbolt.Option {
	opts := []bbolt.Option{bbolt.WithPartitions(max(s.Partitions, 1))}
	if s.Clock != nil {
		opts = append(opts, bbolt.WithClock(s.Clock))
	}
	return opts
}

func TestSuite(t *testing.T) {
	t.Parallel()
	open := func(t testing.TB, s storetest.Setup) store.Log {
		l := openAt(t, filepath.Join(t.TempDir(), "log.db"), options(s)...)
		l.Pause(s.Pause)
		return l
	}
	reopen := func(t testing.TB, l store.Log, s storetest.Setup) store.Log {
		if err := l.Close(); err != nil && !errors.Is(err, store.ErrClosed) {
			t.Fatalf("close: %v", err)
		}
		return openAt(t, l.(*bbolt.Log).Path(), options(s)...)
	}
	storetest.Run(t, open, storetest.Features{
		Exclusive: true, Partitions: true, Clock: true, Pause: true,
		Reopen: reopen,
		OpenBackup: func(t testing.TB, path string, s storetest.Setup) store.Log {
			return openAt(t, path, options(s)...)
		},
		Damage: func(t testing.TB, l store.Log, record any, flip func([]byte)) store.Log {
			path := l.(*bbolt.Log).Path()
			heads, err := l.Heads(t.Context())
			if err != nil {
				t.Fatalf("heads: %v", err)
			}
			closeLog(t, l)
			damage(t, path, record, flip)
			return openAt(t, path, bbolt.WithPartitions(len(heads)))
		},
	})
}
