// Package storetest is the conformance suite that every store must pass.
//
// A store runs it from its own tests:
//
//	func TestLog(t *testing.T) {
//		storetest.Run(t, func(t testing.TB, s storetest.Setup) store.Log {
//			log, err := mystore.Open(filepath.Join(t.TempDir(), "log"), s.Partitions)
//			if err != nil {
//				t.Fatalf("open: %v", err)
//			}
//			return log
//		}, storetest.Features{Partitions: true})
//	}
//
// Each case is a sub-test named after the one promise of the port that it tries
// to break. The suite tests the whole of [store.Log]; a store that embeds
// [store.Unsupported] fails the cases about the methods that it lacks. [Features] says
// which optional abilities the store has; the suite also checks that it has exactly
// those, so that no ability goes untested.
package storetest
