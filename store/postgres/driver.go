package postgres

import (
	"context"
	"slices"

	"github.com/perdure/perdure/store"
)

// Driver returns the driver of the schemes postgres: and postgresql: for [store.Open]. The
// URIs are those of PostgreSQL's own programs, with all their parameters, such as sslmode.
// The driver adds these optional parameters, here with their defaults in parentheses:
//
//	partitions  number of partitions of a new log (1), or the number that an existing one
//	            must have (any)
//	schema      schema that the log is in (perdure)
//	pool_size   largest number of connections for reads (16)
//	migrate     false refuses a schema that is not up to date instead of migrating it (true)
//	read_only   true opens an existing log only for reading, also on a replica (false)
func Driver(options ...Option) store.Driver {
	return store.Driver{
		Schemes: []string{"postgres", "postgresql"},
		Prepare: func(u *store.URI) func(context.Context) (store.Log, error) {
			all := slices.Clip(options) // so that append copies
			if n := u.Partitions(); n > 0 {
				all = append(all, WithPartitions(n))
			}
			if name := u.Text("schema"); name != "" {
				all = append(all, WithSchema(name))
			}
			if n := u.Int("pool_size", 1, poolSizeMax); n > 0 {
				all = append(all, WithPoolSize(n))
			}
			if !u.Bool("migrate", true) {
				all = append(all, NoMigration())
			}
			if u.Bool("read_only", false) {
				all = append(all, ReadOnly())
			}
			address := u.Address()
			return func(ctx context.Context) (store.Log, error) { return Open(ctx, address, all...) }
		},
	}
}
