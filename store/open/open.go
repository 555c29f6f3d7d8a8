// Package open opens a log of any of the library's stores by a URI, for programs such as
// cmd/perdure that work with all of them. A program that uses this package contains the
// code of all stores. One that names its drivers contains only these; see [store.Open].
// Libraries take a [store.Log] value instead.
//
//	memory:?partitions=4&shared=true
//	bbolt:path/file.db?partitions=4&lock_timeout=5s&read_only=true
//	pebble:path/directory?partitions=4&lock_timeout=5s&wal_dir=/fast/wal
//	path/file.db
//	postgres://user@host/database?schema=perdure&partitions=4
//
// [store.URI] says how a URI is written. The parameters are listed at [memory.Driver],
// [bbolt.Driver], [pebble.Driver] and [postgres.Driver].
package open

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/bbolt"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/store/pebble"
	"github.com/perdure/perdure/store/postgres"
)

// Drivers returns the drivers of all stores of the library, to pass to [store.Open] together with
// drivers of other stores.
func Drivers() []store.Driver {
	return []store.Driver{memory.Driver(), bbolt.Driver(), pebble.Driver(), postgres.Driver()}
}

// Open opens the log that uri names. If the URI is wrong, the error matches [store.ErrInvalid]
// and names the wrong part. Otherwise an error is the store's. The caller must close the log.
func Open(ctx context.Context, uri string) (store.Log, error) {
	return store.Open(ctx, uri, Drivers()...)
}

// openWith opens a log after change has changed the parameters of its URI.
func openWith(ctx context.Context, uri string, change func(*store.URI)) (store.Log, error) {
	u, err := store.ParseURI(uri)
	if err != nil {
		return nil, err
	}
	change(u)
	return u.Open(ctx, Drivers()...)
}

// parse parses a URI with the driver of its scheme. It opens nothing.
func parse(uri string) (*store.URI, error) {
	u, err := store.ParseURI(uri)
	if err != nil {
		return nil, err
	}
	return u, u.Check(Drivers()...)
}

// Path returns the file or directory of this machine that uri names, or "" if logs of its scheme
// have none. It opens nothing. The error matches [store.ErrInvalid] and is the same as the error
// of [Open].
func Path(uri string) (string, error) {
	u, err := parse(uri)
	if err != nil || !hasFiles(u) {
		return "", err
	}
	return u.Path(), nil
}

// hasFiles reports whether the place of a URI is a file or a directory.
func hasFiles(u *store.URI) bool { return u.Scheme() == "bbolt" || u.Scheme() == "pebble" }

// ForReading opens an existing log for reading only, as if the URI had read_only=true where its
// scheme has that parameter. It creates nothing.
func ForReading(ctx context.Context, uri string) (store.Log, error) {
	return openWith(ctx, uri, func(u *store.URI) {
		if u.Scheme() != "memory" {
			u.Set("read_only", "true")
		}
	})
}

// ForSalvage is like [ForReading] for a log that may be broken, as if the URI had salvage=true.
// For a store that has no such parameter, the error matches [errors.ErrUnsupported]: for example,
// PostgreSQL has tools of its own.
func ForSalvage(ctx context.Context, uri string) (store.Log, error) {
	u, err := parse(uri)
	if err != nil {
		return nil, err
	}
	if !hasFiles(u) {
		return nil, fmt.Errorf("salvage %q: %w: copy the log as it is; a copy goes on behind damage", u, errors.ErrUnsupported)
	}
	u.Set("read_only", "true")
	u.Set("salvage", "true")
	return u.Open(ctx, Drivers()...)
}

// ForFilling opens the log that uri names. If there is no log and the URI has no number of
// partitions, it creates one with the given number.
func ForFilling(ctx context.Context, uri string, partitions int) (store.Log, error) {
	return openWith(ctx, uri, func(u *store.URI) {
		if !u.Has("partitions") {
			u.Set("partitions", strconv.Itoa(partitions))
		}
	})
}

// Compact shrinks the files of the log that uri names to the size of their content; see
// [bbolt.Compact]. The log must not be open. For a store that does not need it, the error matches
// [errors.ErrUnsupported]: Pebble compacts itself while it runs, and PostgreSQL has VACUUM.
func Compact(ctx context.Context, uri string, progress func(admin.Progress)) (bbolt.Compaction, error) {
	u, err := parse(uri)
	if err != nil {
		return bbolt.Compaction{}, err
	}
	switch u.Scheme() {
	case "bbolt":
		var options []bbolt.Option
		if d := u.Duration("lock_timeout"); d > 0 {
			options = append(options, bbolt.WithLockTimeout(d))
		}
		return bbolt.Compact(ctx, u.Path(), progress, options...)
	case "pebble":
		err = errors.New("pebble compacts itself while the log is open")
	case "postgres", "postgresql":
		err = errors.New("use VACUUM of PostgreSQL")
	default:
		err = fmt.Errorf("a log of %s: has no files", u.Scheme())
	}
	return bbolt.Compaction{}, fmt.Errorf("compact %q: %w: %w", u, errors.ErrUnsupported, err)
}

// Schemes returns the schemes that Open knows, sorted.
func Schemes() []string {
	var schemes []string
	for _, d := range Drivers() {
		schemes = append(schemes, d.Schemes...)
	}
	slices.Sort(schemes)
	return schemes
}
