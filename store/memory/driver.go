package memory

import (
	"context"
	"slices"

	"github.com/perdure/perdure/store"
)

// Driver returns the driver of memory: for [store.Open]. Each URI that it opens is a new
// empty log. The parameters, all optional:
//
//	partitions  number of partitions of the log (1)
//	shared      true lets many engines use it at once (false)
func Driver(opts ...Option) store.Driver {
	return store.Driver{
		Schemes: []string{"memory"},
		Prepare: func(u *store.URI) func(context.Context) (store.Log, error) {
			all := slices.Clip(opts) // append copies
			if n := u.Partitions(); n > 0 {
				all = append(all, WithPartitions(n))
			}
			if u.Bool("shared", false) {
				all = append(all, Shared())
			}
			return func(context.Context) (store.Log, error) { return New(all...), nil }
		},
	}
}
