//go:build !allstores

package main

import (
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
	"github.com/perdure/perdure/store/memory"
)

// drivers returns the drivers of the stores that need only the core modules: with all stores the
// program would be twice as large, and its first build would take several times as long.
func drivers() []store.Driver { return []store.Driver{bbolt.Driver(), memory.Driver()} }
