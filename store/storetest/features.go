package storetest

import (
	"errors"
	"reflect"

	"github.com/perdure/perdure/store"
)

// without returns the opposite need: the case needs a store that lacks the feature.
func without(n need) need {
	return need{"lack of " + n.name, func(f *Features) bool { return !n.met(f) }}
}

var featureCases = []testCase{
	{name: "the log has exactly the abilities that Features names", run: func(x *fixture) {
		check := func(name string, has, says bool) {
			if has != says {
				x.Errorf("%T implements %s: %t, Features says %t", x.log, name, has, says)
			}
		}
		f := &x.features
		check("store.Catalog", has[store.Catalog](x), f.Catalog)
		check("store.Pruner", has[store.Pruner](x), f.Pruner)
		if f.Deletions { // a log may have the methods and return errors.ErrUnsupported
			check("store.Deletions", has[store.Deletions](x), f.Deletions)
		}
		if f.Halting {
			check("store.Halting", has[store.Halting](x), f.Halting)
		}
		check("store.Outbox", has[store.Outbox](x), f.Outbox)
		check("store.Receipts", has[store.Receipts](x), f.Receipts)
		check("store.Claims", has[store.Claims](x), f.Claims)
		check("store.Checkpoints", has[store.Checkpoints](x), f.Checkpoints)
		check("store.Statistics", has[store.StatsReader](x), f.Stats)
		check("store.Watcher", has[store.Watcher](x), f.Watcher)

		check("store.Exporter", has[store.Exporter](x), f.Exporter)
		check("store.Importer", has[store.Importer](x), f.Importer)
		check("store.Verifier", has[store.Verifier](x), f.Verifier)
		check("store.Backuper", has[store.BackupStore](x), f.OpenBackup != nil)
	}},
	{name: "only a log that says so commits without waiting", run: func(x *fixture) {
		i, ok := x.log.(store.Synchronous)
		want(x, "instant", ok && i.Synchronous(), x.features.Instant)
	}},
	{name: "a log that is not exclusive cannot be acquired", needs: []need{without(exclusive)}, run: func(x *fixture) {
		if e, ok := x.log.(store.Exclusive); ok {
			_, err := e.Acquire()
			x.wantError("acquire", err, errors.ErrUnsupported)
		}
	}},
	unsupported("messages", outbox, func(x *fixture, b *store.Batch) {
		b.Enqueue = []store.Message{x.message("m")}
	}),
	unsupported("cancelled timers", outbox, func(_ *fixture, b *store.Batch) {
		b.Cancel = []string{"timer"}
	}),
	unsupported("settlements", outbox, func(_ *fixture, b *store.Batch) {
		b.Settle = []store.Settlement{{Sequence: 1}}
	}),
	unsupported("receipts", receipts, func(_ *fixture, b *store.Batch) {
		b.Receipts = []store.Receipt{{Name: "r"}}
	}),
	unsupported("claims", claims, func(_ *fixture, b *store.Batch) {
		b.Claim = []store.Claim{{Space: "s", Value: "v"}}
	}),
	unsupported("checkpoints", checkpoints, func(_ *fixture, b *store.Batch) {
		b.Checkpoints = []store.Checkpoint{{Name: "b", Position: 1}}
	}),
}

func has[A any](x *fixture) bool {
	return reflect.TypeOf(x.log).Implements(reflect.TypeFor[A]())
}

// unsupported returns the case that a log without an ability refuses a batch that needs it,
// and stores none of the batch's events.
func unsupported(what string, n need, add func(*fixture, *store.Batch)) testCase {
	return testCase{name: "a log that cannot keep " + what + " refuses them", needs: []need{without(n)}, run: func(x *fixture) {
		b := &store.Batch{Key: book("a"), Events: x.events("one")}
		add(x, b)
		x.wantError("result", x.try(b).Err, errors.ErrUnsupported)
		x.wantTexts("read", x.read(b.Key, 0))
	}}
}
