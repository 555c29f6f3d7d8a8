//go:build wheelbroken

package wheel

import "os"

// fault is the one fault that is switched on.
var fault = os.Getenv("WHEEL_BROKEN")

// broken reports whether f is switched on.
func broken(f string) bool { return f == fault }
