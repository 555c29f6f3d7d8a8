//go:build !allstores

package main

import (
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
	"github.com/perdure/perdure/store/memory"
)

// drivers returns those of the stores that need no more than Go: others would make the
// program twice as large, and its first build several times as long.
func drivers() []store.Driver { return []store.Driver{bbolt.Driver(), memory.Driver()} }
