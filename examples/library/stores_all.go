//go:build allstores

package main

import (
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/open"
)

// drivers returns the drivers of all stores of Perdure.
func drivers() []store.Driver { return open.Drivers() }
