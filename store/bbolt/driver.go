package bbolt

import (
	"context"
	"slices"

	"github.com/perdure/perdure/store"
)

// Driver returns the driver of URIs of the form bbolt:FILE, and of plain paths, for
// [store.Open]. The parameters are optional, here with their defaults in parentheses:
//
//	partitions    number of partitions of a new log (1), or the number that an existing
//	              one must have (any)
//	lock_timeout  wait for another process that has the file open, such as 500ms (1s)
//	read_only     true opens an existing log only for reading (false)
//	salvage       true does the same, even if a meta page is damaged (false)
func Driver(options ...Option) store.Driver {
	return store.Driver{
		Schemes: []string{"bbolt"},
		Prepare: func(u *store.URI) func(context.Context) (store.Log, error) {
			path, all := u.Path(), slices.Clip(options) // so that append copies
			if n := u.Partitions(); n > 0 {
				all = append(all, WithPartitions(n))
			}
			if d := u.Duration("lock_timeout"); d > 0 {
				all = append(all, WithLockTimeout(d))
			}
			if u.Bool("read_only", false) {
				all = append(all, ReadOnly())
			}
			if u.Bool("salvage", false) {
				all = append(all, Salvage())
			}
			return func(context.Context) (store.Log, error) { return Open(path, all...) }
		},
	}
}
