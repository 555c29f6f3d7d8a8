package place_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/open/internal/place"
)

func TestAPathIsNotTakenForAScheme(t *testing.T) {
	t.Parallel()
	for uri, want := range map[string]string{
		`C:\data\log.db`:       `C:\data\log.db`,
		`c:/data/log.db`:       `c:/data/log.db`,
		`bbolt:C:\data\log.db`: `C:\data\log.db`,
		"./memory:":            "./memory:",
		"1st:log.db":           "1st:log.db",
		"~/log.db":             "~/log.db",
		"data dir:2/log.db":    "data dir:2/log.db",
	} {
		target, err := place.Parse(uri)
		if err != nil || target.Scheme != "bbolt" || target.Path != want {
			t.Errorf("parse %q: got %+v, %v, want %q of bbolt", uri, target, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, uri := range []string{
		"", ":", "memory:", "memory:?partitions=4&shared=true", "bbolt:a/b.db?partitions=4&lock_timeout=5s&read_only=true",
		"bbolt:///a%20b%3F.db", "bbolt://host/x", "file.db", `C:\x.db`, "x:?%", "memory:?a=1&a=2;", "bbolt:%00", "bbolt:%2F%2F%2F", "pebble:dir?wal_dir=%2Fwal&read_only=false",
		"postgres://user:password@host/database?sslmode=disable&schema=a&pool_size=2&migrate=false", "postgresql:?partitions=0",
	} {
		f.Add(uri)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		target, err := place.Parse(uri)
		if err != nil {
			if !errors.Is(err, store.ErrInvalid) {
				t.Errorf("parse %q: got %v, want an error that matches %v", uri, err, store.ErrInvalid)
			}
			return
		}
		if !slices.Contains(place.Schemes(), target.Scheme) {
			t.Errorf("parse %q: got scheme %q, want one of %q", uri, target.Scheme, place.Schemes())
		}
		switch target.Scheme {
		case "memory":
			if target.Path != "" || target.Address != "" {
				t.Errorf("parse %q: got %+v, want no place", uri, target)
			}
		case "bbolt", "pebble":
			if target.Path == "" || strings.Contains(target.Path, "\x00") || target.Address != "" {
				t.Errorf("parse %q: got %+v, want a path", uri, target)
			}
		default:
			if target.Path != "" || !strings.HasPrefix(target.Address, target.Scheme+":") {
				t.Errorf("parse %q: got %+v, want an address of %s", uri, target, target.Scheme)
			}
		}
		if n := target.Partitions; n < 0 || n > store.PartitionsMax || target.LockTimeout < 0 || target.PoolSize < 0 {
			t.Errorf("parse %q: got %+v, want no number that means nothing", uri, target)
		}
	})
}
