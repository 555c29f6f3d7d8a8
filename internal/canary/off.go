//go:build !canary

package canary

// Broken reports whether the promise behind a twin is broken on purpose. In a
// real build none is: the function is false for the compiler, which removes what
// it guards.
func Broken(string) bool { return false }
