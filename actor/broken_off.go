//go:build !actorbroken

package actor

// broken reports whether a fault is switched on. There is none in a real
// build, and the compiler removes what it guards; the build tag actorbroken
// lets a test see that the stress test finds each fault.
func broken(string) bool { return false }
