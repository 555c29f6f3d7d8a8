package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A Driver opens the logs of one store by their URIs. Each store package has a function Driver
// that returns one. Its arguments are the options that a URI cannot express, such as a logger:
// bbolt.Driver(), pebble.Driver(pebble.WithLogger(l)). Options apply first and parameters of the
// URI second.
type Driver struct {
	// Schemes are the schemes of the URIs that the driver opens, in lower case:
	// "bbolt", or "postgres" and "postgresql".
	Schemes []string
	// Prepare reads the place and the parameters of u by its methods, and returns a function that
	// opens the log. Prepare opens nothing and returns no error. u itself records errors: a wrong
	// value, a parameter that Prepare did not read, or a place that it did not read. If u has an
	// error, the returned function is not called. That function returns either a log or an error.
	Prepare func(u *URI) func(ctx context.Context) (Log, error)
}

// Open opens the log that uri names, with the driver for its scheme; see [URI] for the syntax of
// a URI. A program links only the stores whose drivers it passes:
//
//	log, err := store.Open(ctx, uri, bbolt.Driver(), memory.Driver())
//
// If the URI is wrong, Open returns an error matching [ErrInvalid] that names the wrong part, or
// the package to import if no driver has the scheme. Otherwise the error is the store's. The
// caller must close the log.
func Open(ctx context.Context, uri string, drivers ...Driver) (Log, error) {
	u, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	return u.Open(ctx, drivers...)
}

// Open is like the function [Open], for a URI that has been parsed.
func (u *URI) Open(ctx context.Context, drivers ...Driver) (Log, error) {
	open, err := u.prepare(drivers)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open %q: %w", u, err)
	}
	log, err := open(ctx)
	if err != nil {
		return nil, err // the log of a driver may be a nil pointer, which is a Log that is not nil
	}
	return log, nil
}

// Check returns the error of [URI.Open] for the URI itself: for its scheme, its place or its
// parameters. It opens nothing.
func (u *URI) Check(drivers ...Driver) error {
	_, err := u.prepare(drivers)
	return err
}

// prepare calls the Prepare function of the driver for the scheme.
func (u *URI) prepare(drivers []Driver) (func(context.Context) (Log, error), error) {
	d, err := driverOf(u.scheme, drivers)
	if err != nil {
		return nil, fmt.Errorf("open %q: %w: %w", u, ErrInvalid, err)
	}
	read := *u // another driver may read the same URI later
	read.values, read.known = maps.Clone(u.values), nil
	open := d.Prepare(&read)
	if err := read.fault(); err != nil {
		return nil, err
	}
	return open, nil
}

// packages are the packages of this module's own stores, by scheme, for error texts.
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
