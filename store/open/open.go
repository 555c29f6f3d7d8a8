// Package open opens a store by a URI, for programs that take the store from a
// flag or a configuration. Libraries take a [store.Log] value instead.
//
//	memory:?partitions=4&shared=true
//	bbolt:path/file.db?partitions=4&lock_timeout=5s&read_only=true
//	pebble:path/directory?partitions=4&lock_timeout=5s&wal_dir=/fast/wal
//	path/file.db
//	postgres://user@host/database?schema=perdure&partitions=4
//
// What begins with two letters or more, digits, "+", "-" or "." and then a colon
// has a scheme; all else is a path, taken as it is, and means bbolt. So
// C:\data\file.db is a path, and a path that looks like a scheme is written
// ./like:this.
//
// In the path of a URI, %3F stands for a question mark, %25 for a percent sign,
// and so on; spaces and # stand for themselves. bbolt:///dir/file.db is
// bbolt:/dir/file.db. The parameters are those of a URL's query. Each can be
// given once, and all are optional:
//
//	memory  partitions    how many partitions the log has (1)
//	        shared        true lets many engines use it at once (false)
//	bbolt   partitions    how many partitions a new log gets (1), or an
//	                      existing one must have (any)
//	        lock_timeout  how long to wait for another process that has the
//	                      file open, such as 500ms (1s)
//	        read_only     true opens an existing log for reading alone (false)
//	        salvage       true does so despite a damaged meta page (false)
//	pebble  partitions, lock_timeout, read_only
//	                      as of bbolt, with a directory in place of the file
//	        salvage       true reads all that can be read of a broken log, in
//	                      a copy of it in the directory for temporary files
//	                      (false); it may need partitions
//	        wal_dir       another directory for the write-ahead log; one that
//	                      is relative is within the directory (none)
//
// postgres: and postgresql: take what PostgreSQL's own programs take, with all
// its parameters, such as sslmode, and these beside them:
//
//	postgres  partitions  how many partitions a new log gets (1), or an
//	                      existing one must have (any)
//	          schema      the schema that the log is in (perdure)
//	          pool_size   how many connections read at most (16)
//	          migrate     false refuses a schema that is not up to date
//	                      instead of migrating it (true)
//	          read_only   true opens an existing log for reading alone, also
//	                      on a replica (false)
package open

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/store/open/internal/place"
	"github.com/perdure/perdure/store/pebble"
	"github.com/perdure/perdure/store/postgres"
)

// Open opens the log that uri names; see the package for how. It returns an
// error matching [store.ErrInvalid] that names the part of the URI that is
// wrong, or the error of the store. The caller closes the log.
func Open(ctx context.Context, uri string) (store.Log, error) {
	return openWith(ctx, uri, func(*place.Target) {})
}

// openWith opens a log after change has had its say about the target.
func openWith(ctx context.Context, uri string, change func(*place.Target)) (store.Log, error) {
	t, err := place.Parse(uri)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", place.Masked(uri), err)
	}
	change(t)
	return openers[t.Scheme](ctx, t)
}

// Path returns the file or directory of this machine that uri names, or nothing
// if a log of its scheme has none. It opens nothing. The error matches
// [store.ErrInvalid] and is the one that [Open] returns.
func Path(uri string) (string, error) {
	t, err := place.Parse(uri)
	if err != nil {
		return "", fmt.Errorf("open %q: %w", place.Masked(uri), err)
	}
	return t.Path, nil
}

// ForReading opens an existing log that uri names for reading alone, as if the
// URI said read_only=true where its scheme knows that. It creates nothing.
func ForReading(ctx context.Context, uri string) (store.Log, error) {
	return openWith(ctx, uri, func(t *place.Target) { t.ReadOnly = true })
}

// ForSalvage is like [ForReading] for a log that may be broken, as if the URI said
// salvage=true. It returns an error matching [errors.ErrUnsupported] for a store that
// cannot be read past its own checks: PostgreSQL has tools of its own.
func ForSalvage(ctx context.Context, uri string) (store.Log, error) {
	t, err := place.Parse(uri)
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", place.Masked(uri), err)
	}
	if t.Scheme != "bbolt" && t.Scheme != "pebble" {
		return nil, fmt.Errorf("salvage %q: %w: copy the log as it is; a copy goes on behind damage", place.Masked(uri), errors.ErrUnsupported)
	}
	return openWith(ctx, uri, func(t *place.Target) { t.ReadOnly, t.Salvage = true, true })
}

// ForFilling opens the log that uri names, and creates one with so many
// partitions if there is none and the URI says nothing about them.
func ForFilling(ctx context.Context, uri string, partitions int) (store.Log, error) {
	return openWith(ctx, uri, func(t *place.Target) { t.Partitions = cmp.Or(t.Partitions, partitions) })
}

// Compact makes the files of the log that uri names as small as what it holds; see
// [bbolt.Compact]. The log must not be open. It returns an error matching
// [errors.ErrUnsupported] for a store that has no need of it: Pebble compacts itself
// while it runs, and PostgreSQL has VACUUM.
func Compact(ctx context.Context, uri string, progress func(store.Progress)) (bbolt.Compaction, error) {
	t, err := place.Parse(uri)
	if err != nil {
		return bbolt.Compaction{}, fmt.Errorf("open %q: %w", place.Masked(uri), err)
	}
	switch t.Scheme {
	case "bbolt":
		var options []bbolt.Option
		if t.LockTimeout > 0 {
			options = append(options, bbolt.WithLockTimeout(t.LockTimeout))
		}
		return bbolt.Compact(ctx, t.Path, progress, options...)
	case "pebble":
		err = errors.New("pebble compacts itself while the log is open")
	case "postgres", "postgresql":
		err = errors.New("use VACUUM of PostgreSQL")
	default:
		err = fmt.Errorf("a log of %s: has no files", t.Scheme)
	}
	return bbolt.Compaction{}, fmt.Errorf("compact %q: %w: %w", place.Masked(uri), errors.ErrUnsupported, err)
}

// Schemes returns the schemes that Open knows, sorted.
func Schemes() []string { return place.Schemes() }

// openers are the stores, by scheme.
var openers = map[string]func(context.Context, *place.Target) (store.Log, error){
	"memory": openMemory, "bbolt": openBbolt, "pebble": openPebble, "postgres": openPostgres, "postgresql": openPostgres,
}

func openMemory(_ context.Context, t *place.Target) (store.Log, error) {
	var options []memory.Option
	if t.Partitions > 0 {
		options = append(options, memory.WithPartitions(t.Partitions))
	}
	if t.Shared {
		options = append(options, memory.Shared())
	}
	return memory.New(options...), nil
}

func openBbolt(_ context.Context, t *place.Target) (store.Log, error) {
	var options []bbolt.Option
	if t.Partitions > 0 {
		options = append(options, bbolt.WithPartitions(t.Partitions))
	}
	if t.LockTimeout > 0 {
		options = append(options, bbolt.WithLockTimeout(t.LockTimeout))
	}
	if t.ReadOnly {
		options = append(options, bbolt.ReadOnly())
	}
	if t.Salvage {
		options = append(options, bbolt.Salvage())
	}
	log, err := bbolt.Open(t.Path, options...)
	if err != nil {
		return nil, err // a nil *bbolt.Log would be a log that is not nil
	}
	return log, nil
}

func openPebble(_ context.Context, t *place.Target) (store.Log, error) {
	options := []pebble.Option{pebble.WithWALDir(t.WALDir)}
	if t.Partitions > 0 {
		options = append(options, pebble.WithPartitions(t.Partitions))
	}
	if t.LockTimeout > 0 {
		options = append(options, pebble.WithLockTimeout(t.LockTimeout))
	}
	if t.ReadOnly {
		options = append(options, pebble.ReadOnly())
	}
	if t.Salvage {
		options = append(options, pebble.Salvage())
	}
	log, err := pebble.Open(t.Path, options...)
	if err != nil {
		return nil, err // see openBbolt
	}
	return log, nil
}

func openPostgres(ctx context.Context, t *place.Target) (store.Log, error) {
	var options []postgres.Option
	if t.Partitions > 0 {
		options = append(options, postgres.WithPartitions(t.Partitions))
	}
	if t.Schema != "" {
		options = append(options, postgres.WithSchema(t.Schema))
	}
	if t.PoolSize > 0 {
		options = append(options, postgres.WithPoolSize(t.PoolSize))
	}
	if t.Fixed {
		options = append(options, postgres.WithoutMigration())
	}
	if t.ReadOnly {
		options = append(options, postgres.ReadOnly())
	}
	log, err := postgres.Open(ctx, t.Address, options...)
	if err != nil {
		return nil, err
	}
	return log, nil
}
