package store

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A URI names a log: its store, its place and its parameters.
//
//	memory:?partitions=4&shared=true
//	bbolt:path/file.db?partitions=4&lock_timeout=5s&read_only=true
//	path/file.db
//	postgres://user@host/database?schema=perdure&partitions=4
//
// If two or more letters, digits, "+", "-" or "." stand before the first colon, they are the
// scheme. Any other text is the path of a bbolt file, without escapes. So C:\data\file.db is a
// path. Write a path that looks like a scheme as ./like:this.
//
// In the path of a URI, %3F stands for a question mark, %25 for a percent sign, and so on; spaces
// and # stand for themselves. bbolt:///dir/file.db equals bbolt:/dir/file.db. The parameters have
// the syntax of a URL's query, and each can be given once. The documentation of a store's Driver
// function lists its parameters.
//
// The methods that read a URI are for [Driver.Prepare]. For a wrong value they return the zero
// value, and [Open] reports the first one.
type URI struct {
	scheme string
	text   string     // the text as it was written, without a password
	place  string     // the place as it was written
	bare   bool       // place is a path without escapes
	values url.Values // parameters that were not read yet
	known  []string   // names of the parameters that the driver has read
	placed bool       // the driver has read the place
	rest   bool       // Address has returned all other parameters
	err    error      // the error about the first wrong value
}

// bareScheme is the scheme of a path without one.
const bareScheme = "bbolt"

// ParseURI parses a URI as far as possible without the driver of its store. The error matches
// [ErrInvalid].
func ParseURI(uri string) (*URI, error) {
	scheme, rest, ok := cutScheme(uri)
	if !ok {
		return &URI{scheme: bareScheme, text: masked(uri), place: uri, bare: true, values: url.Values{}}, nil
	}
	place, query, _ := strings.Cut(rest, "?")
	u := &URI{scheme: scheme, text: masked(uri), place: place}
	var err error
	if u.values, err = url.ParseQuery(query); err != nil {
		u.fail("parameters %q: %w", query, err)
		return nil, u.err
	}
	return u, nil
}

// String returns the URI as it was written, without a password.
func (u *URI) String() string { return u.text }

// Scheme returns the scheme in lower case. For a path alone it is "bbolt".
func (u *URI) Scheme() string { return u.scheme }

// Path returns the place as a file or directory of this machine. A URI that names a host is wrong
// and has none.
func (u *URI) Path() string {
	u.placed = true
	path := u.place
	if !u.bare {
		var err error
		if path, err = url.PathUnescape(path); err != nil {
			u.fail("path %q: %w", u.place, err)
			return ""
		}
		if rest, ok := strings.CutPrefix(path, "//"); ok {
			if !strings.HasPrefix(rest, "/") {
				u.fail("path %q names a host; a path is written %s:dir/file or %s:/dir/file", u.place, u.scheme, u.scheme)
				return ""
			}
			path = rest
		}
	}
	switch {
	case path == "":
		u.fail("path is empty")
	case strings.IndexByte(path, 0) >= 0:
		u.fail("path %q holds a zero byte", path)
	default:
		return path
	}
	return ""
}

// Address returns the URI with all parameters that no other method has read, for a store with its
// own syntax for both, such as a database server. A driver must read its own parameters first.
func (u *URI) Address() string {
	u.placed, u.rest = true, true
	address := u.scheme + ":" + u.place
	if len(u.values) > 0 {
		address += "?" + u.values.Encode()
	}
	return address
}

// Has reports whether the URI has a parameter.
func (u *URI) Has(name string) bool { return u.values.Has(name) }

// Set sets a parameter to a value, and replaces the value in the URI.
func (u *URI) Set(name, value string) {
	if u.values == nil {
		u.values = url.Values{}
	}
	u.values.Set(name, value)
}

// Partitions reads the parameter partitions: a number from 1 to [PartitionsMax], or 0 if the URI
// does not have the parameter.
func (u *URI) Partitions() int { return u.Int("partitions", 1, PartitionsMax) }

// Int reads a parameter that is a number from lowest to highest. It returns 0 if the URI does not
// have the parameter.
func (u *URI) Int(name string, lowest, highest int) int {
	return read(u, name, 0, func(v string) (int, error) {
		n, err := strconv.Atoi(v)
		if err != nil || n < lowest || n > highest {
			return 0, fmt.Errorf("not a number from %d to %d", lowest, highest)
		}
		return n, nil
	})
}

// Bool reads a parameter that is true or false. It returns otherwise if the URI does not have the
// parameter.
func (u *URI) Bool(name string, otherwise bool) bool {
	return read(u, name, otherwise, func(v string) (bool, error) {
		if v != "true" && v != "false" {
			return otherwise, errors.New("neither true nor false")
		}
		return v == "true", nil
	})
}

// Duration reads a parameter that is a duration above zero such as 500ms. It returns 0 if the URI
// does not have the parameter.
func (u *URI) Duration(name string) time.Duration {
	return read(u, name, 0, func(v string) (time.Duration, error) {
		d, err := time.ParseDuration(v)
		if err != nil || d <= 0 {
			return 0, errors.New("not a time above zero such as 500ms or 5s")
		}
		return d, nil
	})
}

// Text reads a parameter that is a text. It returns "" if the URI does not have the parameter. An
// empty value, or one with a zero byte, is wrong.
func (u *URI) Text(name string) string {
	return read(u, name, "", func(v string) (string, error) {
		switch {
		case v == "":
			return "", errors.New("the value is empty")
		case strings.IndexByte(v, 0) >= 0:
			return "", errors.New("the value holds a zero byte")
		}
		return v, nil
	})
}

// read removes a parameter from those that were not read, and parses it.
func read[T any](u *URI, name string, otherwise T, parse func(string) (T, error)) T {
	u.known = append(u.known, name)
	given, ok := u.values[name]
	if !ok {
		return otherwise
	}
	delete(u.values, name)
	if n := len(given); n > 1 {
		u.fail("parameter %q is given %d times", name, n)
		return otherwise
	}
	value, err := parse(given[0])
	if err != nil {
		u.fail("parameter %s=%q: %w", name, given[0], err)
	}
	return value
}

// fail keeps the first error.
func (u *URI) fail(format string, args ...any) {
	if u.err == nil {
		u.err = fmt.Errorf("open %q: %w: %w", u, ErrInvalid, fmt.Errorf(format, args...))
	}
}

// fault returns the first error of a URI that its driver has read.
func (u *URI) fault() error {
	if !u.placed && u.place != "" {
		u.fail("%q after %s: that takes no path", u.place, u.scheme)
	}
	if names := slices.Sorted(maps.Keys(u.values)); len(names) > 0 && !u.rest {
		slices.Sort(u.known)
		u.fail("parameter %q of %s is not one of %s", names[0], u.scheme, cmp.Or(strings.Join(u.known, ", "), "none"))
	}
	return u.err
}

// cutScheme cuts off the scheme. A single letter is a Windows drive and no scheme.
func cutScheme(uri string) (scheme, rest string, ok bool) {
	scheme, rest, ok = strings.Cut(uri, ":")
	if !ok || len(scheme) < 2 {
		return "", uri, false
	}
	scheme = strings.ToLower(scheme)
	for i, c := range []byte(scheme) {
		letter := 'a' <= c && c <= 'z'
		if !letter && (i == 0 || !strings.ContainsRune("0123456789+-.", rune(c))) {
			return "", uri, false
		}
	}
	return scheme, rest, true
}

// masked returns a URI without its password.
func masked(uri string) string {
	if u, err := url.Parse(uri); err == nil && u.User != nil {
		return u.Redacted()
	}
	return uri
}
