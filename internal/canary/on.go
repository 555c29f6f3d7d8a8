//go:build canary

package canary

import "os"

// broken is the name of the mutant that is switched on, or empty.
var broken = os.Getenv("PERDURE_CANARY")

// Broken reports whether a mutant is switched on.
func Broken(twin string) bool { return twin == broken }
