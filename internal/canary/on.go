//go:build canary

package canary

import "os"

// broken is the one twin that is switched on; empty is none.
var broken = os.Getenv("PERDURE_CANARY")

// Broken reports whether the promise behind a twin is broken on purpose.
func Broken(twin string) bool { return twin == broken }
