package storetest_test

import (
	"testing"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/store/storetest"
)

func openMemory(t testing.TB, s storetest.Setup) store.Log {
	options := []memory.Option{memory.WithPartitions(s.Partitions)}
	if s.Clock != nil {
		options = append(options, memory.WithClock(s.Clock))
	}
	if s.Pause != nil {
		// Commit calls the clock while it holds the lock that all other commits and all
		// readers wait for. The lock is the only thing that it reserves.
		options = append(options, memory.WithClock(func() time.Time {
			s.Pause()
			return time.Now()
		}))
	}
	return memory.New(options...)
}

var memoryFeatures = storetest.Features{
	Exclusive: true, Synchronous: true, Watcher: true, Partitions: true, Clock: true, Pause: true,
	Reopen: func(_ testing.TB, log store.Log, _ storetest.Setup) store.Log {
		return log.(*memory.Log).Reopen()
	},
	Share: func(_ testing.TB, log store.Log, _ storetest.Setup) store.Log {
		return handle{log.(*memory.Log)}
	},
	Damage: func(t testing.TB, log store.Log, record any, flip func([]byte)) store.Log {
		if err := log.(*memory.Log).Corrupt(record, flip); err != nil {
			t.Fatalf("corrupt: %v", err)
		}
		return log
	},
}

// A handle is a log for a second engine. Closing the handle leaves the log open.
type handle struct{ *memory.Log }

func (handle) Close() error { return nil }

func TestReferenceStorePasses(t *testing.T) {
	t.Parallel()
	storetest.Run(t, openMemory, memoryFeatures)
}

func TestGoldenDataIsWhatItWas(t *testing.T) {
	t.Parallel()
	log := openMemory(t, storetest.GoldenSetup())
	storetest.FillGolden(t, log)
	storetest.CheckGolden(t, log)
}
