//go:build !wheelbroken

package wheel

// broken reports whether a fault is switched on. There is none in a real
// build, and the compiler removes what it guards; the build tag wheelbroken
// lets a test see that the other tests find each fault.
func broken(string) bool { return false }
