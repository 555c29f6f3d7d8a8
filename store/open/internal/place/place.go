// Package place reads what names a store: the scheme, the place and the parameters.
// The documentation of package open says how it is written. Nothing is opened
// here, so that it can be tested without the drivers of the stores.
package place

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/perdure/perdure/store"
)

// A Target is what a URI means. The zero value of a field is its default.
type Target struct {
	Scheme      string
	Path        string // of this machine
	Address     string // what is the store's to understand
	Partitions  int
	LockTimeout time.Duration
	WALDir      string
	Shared      bool
	ReadOnly    bool
	Schema      string
	PoolSize    int
	Fixed       bool // it is not migrated
	Salvage     bool
}

// A scheme says what a URI of it can hold.
type scheme struct {
	hasPath    bool
	parameters map[string]func(*Target, string) error
	// foreign says that what is behind the scheme, and parameters that are not
	// listed, are the store's to understand.
	foreign bool
}

var schemes = map[string]scheme{
	"memory": {
		parameters: map[string]func(*Target, string) error{
			"partitions": setPartitions,
			"shared":     func(t *Target, v string) error { return setBool(&t.Shared, v) },
		},
	},
	"bbolt": {
		hasPath: true,
		parameters: map[string]func(*Target, string) error{
			"partitions":   setPartitions,
			"lock_timeout": setLockTimeout,
			"read_only":    func(t *Target, v string) error { return setBool(&t.ReadOnly, v) },
			"salvage":      func(t *Target, v string) error { return setBool(&t.Salvage, v) },
		},
	},
	"pebble": {
		hasPath: true,
		parameters: map[string]func(*Target, string) error{
			"partitions":   setPartitions,
			"lock_timeout": setLockTimeout,
			"read_only":    func(t *Target, v string) error { return setBool(&t.ReadOnly, v) },
			"wal_dir":      setWALDir,
			"salvage":      func(t *Target, v string) error { return setBool(&t.Salvage, v) },
		},
	},
	"postgres":   postgresScheme,
	"postgresql": postgresScheme,
}

var postgresScheme = scheme{
	foreign: true,
	parameters: map[string]func(*Target, string) error{
		"partitions": setPartitions,
		"schema":     setSchema,
		"pool_size":  setPoolSize,
		"read_only":  func(t *Target, v string) error { return setBool(&t.ReadOnly, v) },
		"migrate": func(t *Target, v string) error {
			migrate := false
			err := setBool(&migrate, v)
			t.Fixed = !migrate
			return err
		},
	},
}

// barePath is the scheme of a path without one.
const barePath = "bbolt"

// Schemes returns the schemes that Parse knows, sorted.
func Schemes() []string { return slices.Sorted(maps.Keys(schemes)) }

// Masked returns a URI without its password, for errors.
func Masked(uri string) string {
	if u, err := url.Parse(uri); err == nil && u.User != nil {
		return u.Redacted()
	}
	return uri
}

// Parse reads a URI. Its error matches [store.ErrInvalid] and names the part that
// is wrong.
func Parse(uri string) (*Target, error) {
	name, rest, ok := cutScheme(uri)
	if !ok {
		return &Target{Scheme: barePath, Path: uri}, checkPath(uri)
	}
	s, ok := schemes[name]
	if !ok {
		return nil, fmt.Errorf("%w: scheme %q is not one of %s", store.ErrInvalid, name, strings.Join(Schemes(), ", "))
	}
	path, query, _ := strings.Cut(rest, "?")
	t := &Target{Scheme: name}
	if s.foreign {
		rest, err := t.setParameters(s, query)
		if t.Address = name + ":" + path; rest != "" {
			t.Address += "?" + rest
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

func (t *Target) setPath(escaped string) error {
	path, err := url.PathUnescape(escaped)
	if err != nil {
		return fmt.Errorf("%w: path %q: %w", store.ErrInvalid, escaped, err)
	}
	if strings.HasPrefix(path, "//") {
		if !strings.HasPrefix(path, "///") {
			return fmt.Errorf("%w: path %q names a host; a path is written %s:dir/file or %s:/dir/file",
				store.ErrInvalid, escaped, t.Scheme, t.Scheme)
		}
		path = path[len("//"):]
	}
	t.Path = path
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
func (t *Target) setParameters(s scheme, query string) (rest string, err error) {
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
			return "", fmt.Errorf("%w: parameter %q of %s is not one of %s", store.ErrInvalid, name, t.Scheme, known)
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

func setPartitions(t *Target, v string) error {
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > store.PartitionsMax {
		return fmt.Errorf("not a number from 1 to %d", store.PartitionsMax)
	}
	t.Partitions = n
	return nil
}

func setSchema(t *Target, v string) error {
	if v == "" {
		return errors.New("the name is empty")
	}
	t.Schema = v
	return nil
}

func setPoolSize(t *Target, v string) error {
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		return errors.New("not a number above zero")
	}
	t.PoolSize = n
	return nil
}

func setLockTimeout(t *Target, v string) error {
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 {
		return errors.New("not a time above zero such as 500ms or 5s")
	}
	t.LockTimeout = d
	return nil
}

func setWALDir(t *Target, v string) error {
	t.WALDir = v
	return checkPath(v)
}

func setBool(to *bool, v string) error {
	if v != "true" && v != "false" {
		return errors.New("neither true nor false")
	}
	*to = v == "true"
	return nil
}
