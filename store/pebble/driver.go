package pebble

import (
	"context"
	"slices"

	"github.com/perdure/perdure/store"
)

// Driver returns the driver of URIs of the form pebble:DIRECTORY for [store.Open]. The
// parameters are optional, here with their defaults in parentheses:
//
//	partitions    number of partitions of a new log (1), or the number that an existing
//	              one must have (any)
//	lock_timeout  wait for another process that has the directory open, such as 500ms (1s)
//	read_only     true opens an existing log only for reading (false)
//	salvage       true reads the readable records of a broken log into a copy, in the
//	              directory for temporary files (false); it may need partitions
//	wal_dir       another directory for the write-ahead log; a relative path is within the
//	              directory of the log (none)
func Driver(options ...Option) store.Driver {
	return store.Driver{
		Schemes: []string{"pebble"},
		Prepare: func(u *store.URI) func(context.Context) (store.Log, error) {
			path, all := u.Path(), slices.Clip(options) // so that append copies
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
			return func(context.Context) (store.Log, error) { return Open(path, all...) }
		},
	}
}
