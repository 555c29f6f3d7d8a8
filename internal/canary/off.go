//go:build !canary

package canary

// Broken reports whether a mutant is switched on. In a real build it is constantly false,
// so that the compiler removes the code that it guards.
func Broken(string) bool { return false }
