package pebble

import (
	"context"
	"slices"

	"github.com/perdure/perdure/store"
)

// Driver returns the driver of pebble:DIRECTORY for [store.Open]. The parameters, all
// optional:
//
//	partitions    number of partitions of a new log (1), or the number that an existing
//	              one must have (any)
//	lock_timeout  wait for another process that has the directory open, such as 500ms (1s)
//	read_only     true opens an existing log for reading alone (false)
//	salvage       true reads all that can be read of a broken log, in a copy of it in the
//	              directory for temporary files (false); it may need partitions
//	wal_dir       another directory for the write-ahead log; a relative one is within the
//	              directory of the log (none)
func Driver(options ...Option) store.Driver {
	return store.Driver{
		Schemes: []string{"pebble"},
		Prepare: func(u *store.URI) func(context.Context) (store.Log, error) {
			path, all := u.Path(), slices.Clip(options) // append copies
			if dir := u.Text("wal_dir"); dir != "" {
				all = append(all, WithWALDir(dir))
			}
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
			return func(context.Context) (store.Log, error) {
				log, err := Open(path, all...)
				if err != nil {
					return nil, err // a nil *Log would be a store.Log that is not nil
				}
				return log, nil
			}
		},
	}
}
