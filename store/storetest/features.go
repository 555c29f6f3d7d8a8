package storetest

import (
	"errors"
	"reflect"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
)

var featureCases = []testCase{
	{name: "the log has exactly the abilities that Features names", run: func(x *fixture) {
		check := func(name string, has, says bool) {
			if has != says {
				x.Errorf("%T implements %s: %t, Features says %t", x.log, name, has, says)
			}
		}
		check("store.Watcher", has[store.Watcher](x), x.features.Watcher)
		check("admin.BackupStore", has[admin.BackupStore](x), x.features.OpenBackup != nil)
	}},
	{name: "only a log that says so commits without waiting", run: func(x *fixture) {
		s, ok := x.log.(store.Synchronous)
		want(x, "synchronous", ok && s.Synchronous(), x.features.Synchronous)
	}},
	{name: "a log that is not exclusive cannot be acquired", needs: []need{without(exclusive)}, run: func(x *fixture) {
		_, err := x.log.Acquire()
		x.wantError("acquire", err, errors.ErrUnsupported)
	}},
}

func has[A any](x *fixture) bool {
	return reflect.TypeOf(x.log).Implements(reflect.TypeFor[A]())
}

// without returns the opposite need: the case needs a store that lacks the feature.
func without(n need) need {
	return need{"lack of " + n.name, func(f *Features) bool { return !n.met(f) }}
}
