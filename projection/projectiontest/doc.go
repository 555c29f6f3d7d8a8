// Package projectiontest is the conformance suite that every target of
// projections must pass.
//
// A target runs the suite from its own tests, with two functions that write and read a value of a
// read model through the target's transaction:
//
//	func TestTarget(t *testing.T) {
//		projectiontest.Run(t, func(t testing.TB) projection.Target[*mydb.Tx] {
//			return open(t, filepath.Join(t.TempDir(), "model"))
//		}, projectiontest.Features[*mydb.Tx]{Put: put, Get: get})
//	}
//
// Each case is a sub-test that tries to break one promise of the port, and has that promise as
// its name.
package projectiontest
