package open

import (
	"maps"
	"slices"
)

// Openers returns the schemes that there is a store for, sorted.
func Openers() []string { return slices.Sorted(maps.Keys(openers)) }
