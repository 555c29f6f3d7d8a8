package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A Driver opens the logs of one store by their URIs. Each package of a store has a
// function Driver that returns one and takes the options that a URI cannot hold, such as
// a logger: bbolt.Driver(), pebble.Driver(pebble.WithLogger(l)). Options apply first and
// parameters of the URI second.
type Driver struct {
	// Schemes are the schemes of the URIs that the driver opens, in lower case:
	// "bbolt", or "postgres" and "postgresql".
	Schemes []string
	// Prepare reads the place and the parameters of u by its methods and returns a
	// function that opens the log. It opens nothing and reports no error itself: a
	// value of u that is wrong, a parameter that Prepare did not read, and a place that
	// it did not read are errors of u, and then the function is not called. The
	// function returns a log or an error and never both.
	Prepare func(u *URI) func(ctx context.Context) (Log, error)
}

// Open opens the log that uri names with the one of drivers that knows its scheme; see
// [URI] for how a URI is written. A program holds the code of the stores whose drivers
// it hands over, and of no other:
//
//	log, err := store.Open(ctx, uri, bbolt.Driver(), memory.Driver())
//
// Open returns an error matching [ErrInvalid] that names the part of the URI that is
// wrong, or the package to import if no driver has the scheme; or the error of the
// store. The caller closes the log.
func Open(ctx context.Context, uri string, drivers ...Driver) (Log, error) {
	u, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	return u.Open(ctx, drivers...)
}

// Open is like the function [Open], for a URI that was parsed before.
func (u *URI) Open(ctx context.Context, drivers ...Driver) (Log, error) {
	open, err := u.prepare(drivers)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open %q: %w", u, err)
	}
	return open(ctx)
}

// Check returns the error that [URI.Open] would return for the URI itself: of its
// scheme, its place or its parameters. It opens nothing.
func (u *URI) Check(drivers ...Driver) error {
	_, err := u.prepare(drivers)
	return err
}

// prepare lets the driver of the scheme read the URI.
func (u *URI) prepare(drivers []Driver) (func(context.Context) (Log, error), error) {
	d, err := driverOf(u.scheme, drivers)
	if err != nil {
		return nil, fmt.Errorf("open %q: %w: %w", u, ErrInvalid, err)
	}
	read := *u // a URI can be read again, by another driver
	read.values, read.known = maps.Clone(u.values), nil
	open := d.Prepare(&read)
	if err := read.fault(); err != nil {
		return nil, err
	}
	return open, nil
}

// packages are the packages of the library's own stores, by scheme, for an error.
var packages = map[string]string{"memory": "memory", "bbolt": "bbolt", "pebble": "pebble", "postgres": "postgres", "postgresql": "postgres"}

// driverOf returns the driver that has a scheme.
func driverOf(scheme string, drivers []Driver) (Driver, error) {
	byScheme := map[string]Driver{}
	for i, d := range drivers {
		if len(d.Schemes) == 0 || d.Prepare == nil {
			return Driver{}, fmt.Errorf("driver %d has no scheme or no function Prepare", i)
		}
		for _, s := range d.Schemes {
			if _, twice := byScheme[s]; twice {
				return Driver{}, fmt.Errorf("two drivers have the scheme %q", s)
			}
			byScheme[s] = d
		}
	}
	if d, ok := byScheme[scheme]; ok {
		return d, nil
	}
	known := strings.Join(slices.Sorted(maps.Keys(byScheme)), ", ")
	if known == "" {
		known = "none"
	}
	if name, ok := packages[scheme]; ok {
		return Driver{}, fmt.Errorf("the program has no driver for scheme %q, only for %s (import github.com/perdure/perdure/store/%s and hand over %s.Driver() as well)",
			scheme, known, name, name)
	}
	return Driver{}, fmt.Errorf("scheme %q is not one of %s", scheme, known)
}
