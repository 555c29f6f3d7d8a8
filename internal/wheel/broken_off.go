//go:build !wheelbroken

package wheel

// broken reports whether a fault is switched on, for mutation tests. In a real build it is
// constant, and the compiler removes the guarded code. The build tag wheelbroken switches
// faults on, so that a test can show that the other tests find each of them.
func broken(string) bool { return false }
