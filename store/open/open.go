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
package open

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/store/pebble"
	"github.com/perdure/perdure/store/postgres"
)

// Open opens the log that uri names; see the package for how. It returns an
// error matching [store.ErrInvalid] that names the part of the URI that is
// wrong, or the error of the store. The caller closes the log.
func Open(ctx context.Context, uri string) (store.Log, error) {
	return openWith(ctx, uri, func(*target) {})
}

// openWith opens a log after change has had its say about the target.
func openWith(ctx context.Context, uri string, change func(*target)) (store.Log, error) {
	t, err := parse(uri)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", masked(uri), err)
	}
	change(t)
	return schemes[t.scheme].open(ctx, t)
}

// Path returns the file or directory of this machine that uri names, or nothing
// if a log of its scheme has none. It opens nothing. The error matches
// [store.ErrInvalid] and is the one that [Open] returns.
func Path(uri string) (string, error) {
	t, err := parse(uri)
	if err != nil {
		return "", fmt.Errorf("open %q: %w", masked(uri), err)
	}
	return t.path, nil
}

// ForReading opens an existing log that uri names for reading alone, as if the
// URI said read_only=true where its scheme knows that. It creates nothing.
func ForReading(ctx context.Context, uri string) (store.Log, error) {
	return openWith(ctx, uri, func(t *target) { t.readOnly = true })
}

// ForFilling opens the log that uri names, and creates one with so many
// partitions if there is none and the URI says nothing about them.
func ForFilling(ctx context.Context, uri string, partitions int) (store.Log, error) {
	return openWith(ctx, uri, func(t *target) { t.partitions = cmp.Or(t.partitions, partitions) })
}

// Schemes returns the schemes that Open knows, sorted.
func Schemes() []string { return slices.Sorted(maps.Keys(schemes)) }

// A target is what a URI means. The zero value of a field is its default.
type target struct {
	scheme      string
	path        string
	address     string // what is the store's to understand
	partitions  int
	lockTimeout time.Duration
	walDir      string
	shared      bool
	readOnly    bool
	schema      string
	poolSize    int
	fixed       bool // it is not migrated
	salvage     bool
}

// A scheme says what a URI of it can hold, and opens it.
type scheme struct {
	hasPath    bool
	parameters map[string]func(*target, string) error
	// foreign says that what is behind the scheme, and parameters that are not
	// listed, are the store's to understand.
	foreign bool
	open    func(context.Context, *target) (store.Log, error)
}

var schemes = map[string]scheme{
	"memory": {
		parameters: map[string]func(*target, string) error{
			"partitions": setPartitions,
			"shared":     func(t *target, v string) error { return setBool(&t.shared, v) },
		},
		open: openMemory,
	},
	"bbolt": {
		hasPath: true,
		parameters: map[string]func(*target, string) error{
			"partitions":   setPartitions,
			"lock_timeout": setLockTimeout,
			"read_only":    func(t *target, v string) error { return setBool(&t.readOnly, v) },
			"salvage":      func(t *target, v string) error { return setBool(&t.salvage, v) },
		},
		open: openBbolt,
	},
	"pebble": {
		hasPath: true,
		parameters: map[string]func(*target, string) error{
			"partitions":   setPartitions,
			"lock_timeout": setLockTimeout,
			"read_only":    func(t *target, v string) error { return setBool(&t.readOnly, v) },
			"wal_dir":      setWALDir,
		},
		open: openPebble,
	},
	"postgres":   postgresScheme,
	"postgresql": postgresScheme,
}

var postgresScheme = scheme{
	foreign: true,
	parameters: map[string]func(*target, string) error{
		"partitions": setPartitions,
		"schema":     setSchema,
		"pool_size":  setPoolSize,
		"migrate": func(t *target, v string) error {
			migrate := false
			err := setBool(&migrate, v)
			t.fixed = !migrate
			return err
		},
	},
	open: openPostgres,
}

// barePath is the scheme of a path without one.
const barePath = "bbolt"

func openMemory(_ context.Context, t *target) (store.Log, error) {
	var options []memory.Option
	if t.partitions > 0 {
		options = append(options, memory.WithPartitions(t.partitions))
	}
	if t.shared {
		options = append(options, memory.Shared())
	}
	return memory.New(options...), nil
}

func openBbolt(_ context.Context, t *target) (store.Log, error) {
	var options []bbolt.Option
	if t.partitions > 0 {
		options = append(options, bbolt.WithPartitions(t.partitions))
	}
	if t.lockTimeout > 0 {
		options = append(options, bbolt.WithLockTimeout(t.lockTimeout))
	}
	if t.readOnly {
		options = append(options, bbolt.ReadOnly())
	}
	if t.salvage {
		options = append(options, bbolt.Salvage())
	}
	log, err := bbolt.Open(t.path, options...)
	if err != nil {
		return nil, err // a nil *bbolt.Log would be a log that is not nil
	}
	return log, nil
}

func openPebble(_ context.Context, t *target) (store.Log, error) {
	options := []pebble.Option{pebble.WithWALDir(t.walDir)}
	if t.partitions > 0 {
		options = append(options, pebble.WithPartitions(t.partitions))
	}
	if t.lockTimeout > 0 {
		options = append(options, pebble.WithLockTimeout(t.lockTimeout))
	}
	if t.readOnly {
		options = append(options, pebble.ReadOnly())
	}
	log, err := pebble.Open(t.path, options...)
	if err != nil {
		return nil, err // see openBbolt
	}
	return log, nil
}

func openPostgres(ctx context.Context, t *target) (store.Log, error) {
	var options []postgres.Option
	if t.partitions > 0 {
		options = append(options, postgres.WithPartitions(t.partitions))
	}
	if t.schema != "" {
		options = append(options, postgres.WithSchema(t.schema))
	}
	if t.poolSize > 0 {
		options = append(options, postgres.WithPoolSize(t.poolSize))
	}
	if t.fixed || t.readOnly {
		options = append(options, postgres.WithoutMigration())
	}
	log, err := postgres.Open(ctx, t.address, options...)
	if err != nil {
		return nil, err
	}
	return log, nil
}

// masked returns the URI without a password, for errors.
func masked(uri string) string {
	if u, err := url.Parse(uri); err == nil && u.User != nil {
		return u.Redacted()
	}
	return uri
}

// parse reads a URI.
func parse(uri string) (*target, error) {
	name, rest, ok := cutScheme(uri)
	if !ok {
		return &target{scheme: barePath, path: uri}, checkPath(uri)
	}
	s, ok := schemes[name]
	if !ok {
		return nil, fmt.Errorf("%w: scheme %q is not one of %s", store.ErrInvalid, name, strings.Join(Schemes(), ", "))
	}
	path, query, _ := strings.Cut(rest, "?")
	t := &target{scheme: name}
	if s.foreign {
		rest, err := t.setParameters(s, query)
		if t.address = name + ":" + path; rest != "" {
			t.address += "?" + rest
		}
		return t, err
	}
	switch {
	case s.hasPath:
		if err := t.setPath(path); err != nil {
			return nil, err
		}
	case path != "":
		return nil, fmt.Errorf("%w: %q after %s: that takes no path", store.ErrInvalid, path, name)
	}
	_, err := t.setParameters(s, query)
	return t, err
}

// cutScheme cuts off the scheme. One letter is no scheme but a Windows drive.
func cutScheme(uri string) (scheme, rest string, ok bool) {
	scheme, rest, ok = strings.Cut(uri, ":")
	if !ok || len(scheme) < 2 {
		return "", uri, false
	}
	for i, c := range []byte(strings.ToLower(scheme)) {
		letter := 'a' <= c && c <= 'z'
		if !letter && (i == 0 || !strings.ContainsRune("0123456789+-.", rune(c))) {
			return "", uri, false
		}
	}
	return strings.ToLower(scheme), rest, true
}

func (t *target) setPath(escaped string) error {
	path, err := url.PathUnescape(escaped)
	if err != nil {
		return fmt.Errorf("%w: path %q: %w", store.ErrInvalid, escaped, err)
	}
	if strings.HasPrefix(path, "//") {
		if !strings.HasPrefix(path, "///") {
			return fmt.Errorf("%w: path %q names a host; a path is written %s:dir/file or %s:/dir/file",
				store.ErrInvalid, escaped, t.scheme, t.scheme)
		}
		path = path[len("//"):]
	}
	t.path = path
	return checkPath(path)
}

func checkPath(path string) error {
	switch {
	case path == "":
		return fmt.Errorf("%w: path is empty", store.ErrInvalid)
	case strings.IndexByte(path, 0) >= 0:
		return fmt.Errorf("%w: path %q holds a zero byte", store.ErrInvalid, path)
	}
	return nil
}

// setParameters takes the parameters of a query that the scheme knows, and
// returns the others if there may be some.
func (t *target) setParameters(s scheme, query string) (rest string, err error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return "", fmt.Errorf("%w: parameters %q: %w", store.ErrInvalid, query, err)
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		set, ok := s.parameters[name]
		if !ok && s.foreign {
			continue
		}
		if !ok {
			known := strings.Join(slices.Sorted(maps.Keys(s.parameters)), ", ")
			return "", fmt.Errorf("%w: parameter %q of %s is not one of %s", store.ErrInvalid, name, t.scheme, known)
		}
		if n := len(values[name]); n > 1 {
			return "", fmt.Errorf("%w: parameter %q is given %d times", store.ErrInvalid, name, n)
		}
		if err := set(t, values.Get(name)); err != nil {
			return "", fmt.Errorf("%w: parameter %s=%q: %w", store.ErrInvalid, name, values.Get(name), err)
		}
		delete(values, name)
	}
	return values.Encode(), nil
}

func setPartitions(t *target, v string) error {
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > store.PartitionsMax {
		return fmt.Errorf("not a number from 1 to %d", store.PartitionsMax)
	}
	t.partitions = n
	return nil
}

func setSchema(t *target, v string) error {
	if v == "" {
		return errors.New("the name is empty")
	}
	t.schema = v
	return nil
}

func setPoolSize(t *target, v string) error {
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		return errors.New("not a number above zero")
	}
	t.poolSize = n
	return nil
}

func setLockTimeout(t *target, v string) error {
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 {
		return errors.New("not a time above zero such as 500ms or 5s")
	}
	t.lockTimeout = d
	return nil
}

func setWALDir(t *target, v string) error {
	t.walDir = v
	return checkPath(v)
}

func setBool(to *bool, v string) error {
	if v != "true" && v != "false" {
		return errors.New("neither true nor false")
	}
	*to = v == "true"
	return nil
}
