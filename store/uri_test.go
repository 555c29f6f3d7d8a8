package store_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// fileDriver is a driver with a path and a parameter of each type. It opens a log in memory and
// keeps the values that it has read.
type fileDriver struct {
	path, text string
	n          int
	wait       time.Duration
	on         bool
	opened     int
}

func (f *fileDriver) driver(schemes ...string) store.Driver {
	return store.Driver{Schemes: schemes, Prepare: func(u *store.URI) func(context.Context) (store.Log, error) {
		f.path, f.n, f.wait, f.on, f.text = u.Path(), u.Int("n", 1, 9), u.Duration("wait"), u.Bool("on", true), u.Text("text")
		return func(context.Context) (store.Log, error) {
			f.opened++
			return memory.New(), nil
		}
	}}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	t.Run("lets the driver of the scheme read place and parameters", func(t *testing.T) {
		t.Parallel()
		f, other := &fileDriver{}, &fileDriver{}
		log, err := store.Open(t.Context(), "File:a%20b?n=3&wait=5s&on=false&text=x+y", other.driver("other"), f.driver("disk", "file"))
		if err != nil {
			t.Fatal(err)
		}
		if err := log.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if want := (fileDriver{path: "a b", n: 3, wait: 5 * time.Second, text: "x y", opened: 1}); *f != want {
			t.Errorf("the driver read %+v, want %+v", *f, want)
		}
		if *other != (fileDriver{}) {
			t.Errorf("the driver of another scheme read %+v, want nothing", *other)
		}
	})
	t.Run("names the package to import if no driver has the scheme", func(t *testing.T) {
		t.Parallel()
		for uri, says := range map[string]string{
			"pebble:dir":          "no driver for scheme \"pebble\", only for memory (import github.com/perdure/perdure/store/pebble and hand over pebble.Driver() as well)",
			"postgresql://h/d":    "hand over postgres.Driver()",
			"file.db":             "hand over bbolt.Driver()",
			"redis:x":             `scheme "redis" is not one of memory`,
			"postgres://u:pw@h/d": `open "postgres://u:xxxxx@h/d"`,
		} {
			_, err := store.Open(t.Context(), uri, memory.Driver())
			if !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), says) {
				t.Errorf("open %q: got %v, want an error that matches %v and says %s", uri, err, store.ErrInvalid, says)
			}
		}
		if _, err := store.Open(t.Context(), "memory:"); err == nil || !strings.Contains(err.Error(), `for scheme "memory", only for none`) {
			t.Errorf("open without drivers: got %v, want an error that says that there is none", err)
		}
	})
	t.Run("does not call a driver that has refused a value", func(t *testing.T) {
		t.Parallel()
		for uri, says := range map[string]string{
			"file:":                     "path is empty",
			"file://host/x":             "names a host",
			"file:x?n=10":               `parameter n="10": not a number from 1 to 9`,
			"file:x?n=0":                `parameter n="0"`,
			"file:x?on=1":               `parameter on="1": neither true nor false`,
			"file:x?wait=5":             `parameter wait="5": not a time above zero`,
			"file:x?text=":              `parameter text="": the value is empty`,
			"file:x?text=%00":           "zero byte",
			"file:x?n=1&n=1":            `"n" is given 2 times`,
			"file:x?n=1&m=1&k=1":        `parameter "k" of file is not one of n, on, text, wait`,
			"file:x?n=x&unknown=1":      `parameter n="x"`,
			"file:x?n=1;on=true":        "parameters",
			"file:%zz":                  `path "%zz"`,
			"file:" + "a\x00b" + "?n=1": "zero byte",
		} {
			f := &fileDriver{}
			log, err := store.Open(t.Context(), uri, f.driver("file"))
			if !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), says) || log != nil {
				t.Errorf("open %q: got %v, %v, want an error that matches %v and says %s", uri, log, err, store.ErrInvalid, says)
			}
			if f.opened > 0 {
				t.Errorf("open %q: the function that opens was called", uri)
			}
		}
	})
	t.Run("refuses drivers that contradict each other or are empty", func(t *testing.T) {
		t.Parallel()
		f := &fileDriver{}
		for says, drivers := range map[string][]store.Driver{
			`two drivers have the scheme "file"`: {f.driver("file"), f.driver("other", "file")},
			"driver 1 has no scheme":             {f.driver("file"), f.driver()},
			"driver 0 has no scheme or no":       {{Schemes: []string{"file"}}},
		} {
			if _, err := store.Open(t.Context(), "file:x", drivers...); !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), says) {
				t.Errorf("open: got %v, want an error that matches %v and says %s", err, store.ErrInvalid, says)
			}
		}
	})
	t.Run("opens nothing once the context has ended", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		f := &fileDriver{}
		if _, err := store.Open(ctx, "file:x", f.driver("file")); !errors.Is(err, context.Canceled) || f.opened > 0 {
			t.Errorf("open: got %v after %d calls, want an error that matches %v", err, f.opened, context.Canceled)
		}
	})
}

func TestURI(t *testing.T) {
	t.Parallel()
	t.Run("does not take a path for a scheme", func(t *testing.T) {
		t.Parallel()
		for uri, want := range map[string]string{
			`C:\data\log.db`:       `C:\data\log.db`,
			`c:/data/log.db`:       `c:/data/log.db`,
			`bbolt:C:\data\log.db`: `C:\data\log.db`,
			"./memory:":            "./memory:",
			"1st:log.db":           "1st:log.db",
			"~/log.db":             "~/log.db",
			"data dir:2/log.db":    "data dir:2/log.db",
			"100%?n=x":             "100%?n=x",
		} {
			f := &fileDriver{}
			u, err := store.ParseURI(uri)
			if err == nil {
				err = u.Check(f.driver("bbolt"))
			}
			if err != nil || u.Scheme() != "bbolt" || f.path != want || u.Path() != want {
				t.Errorf("parse %q: got path %q, %v, want %q of bbolt", uri, f.path, err, want)
			}
		}
	})
	t.Run("can be read many times and by many drivers", func(t *testing.T) {
		t.Parallel()
		u, err := store.ParseURI("file:x?n=3")
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			f := &fileDriver{}
			if err := u.Check(f.driver("file")); err != nil || f.n != 3 || f.path != "x" {
				t.Fatalf("check: got %+v, %v, want n 3 of path x", *f, err)
			}
		}
		u.Set("n", "4")
		u.Set("on", "false")
		f := &fileDriver{}
		if err := u.Check(f.driver("file")); err != nil || f.n != 4 || f.on || !u.Has("on") || u.Has("text") {
			t.Errorf("check after Set: got %+v, %v, want n 4 and not on", *f, err)
		}
	})
	t.Run("gives its address the parameters that nothing else has read", func(t *testing.T) {
		t.Parallel()
		address, n := "", 0
		server := store.Driver{Schemes: []string{"server"}, Prepare: func(u *store.URI) func(context.Context) (store.Log, error) {
			n, address = u.Partitions(), u.Address()
			return nil
		}}
		for uri, want := range map[string]string{
			"SERVER://u:pw@h/d?partitions=2&b=1&a=x+y": "server://u:pw@h/d?a=x+y&b=1",
			"server:?partitions=2":                     "server:",
		} {
			u, err := store.ParseURI(uri)
			if err == nil {
				err = u.Check(server)
			}
			if err != nil || address != want || n != 2 {
				t.Errorf("check %q: got address %q and %d partitions, %v, want %q and 2", uri, address, n, err, want)
			}
			if strings.Contains(u.String(), "pw") {
				t.Errorf("%q is printed with its password: %s", uri, u)
			}
		}
	})
}

func FuzzParseURI(f *testing.F) {
	for _, uri := range []string{
		"", ":", "memory:", "memory:?partitions=4&shared=true", "bbolt:a/b.db?n=4&wait=5s&on=true", "bbolt:///a%20b%3F.db",
		"bbolt://host/x", "file.db", `C:\x.db`, "x:?%", "memory:?a=1&a=2;", "bbolt:%00", "bbolt:%2F%2F%2F", "bbolt:dir?text=%2Fwal&on=false",
		"server://user:password@host/database?sslmode=disable&partitions=2", "server:?partitions=0",
	} {
		f.Add(uri)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		file, partitions, address := &fileDriver{}, 0, ""
		server := store.Driver{Schemes: []string{"server"}, Prepare: func(u *store.URI) func(context.Context) (store.Log, error) {
			partitions, address = u.Partitions(), u.Address()
			return nil
		}}
		u, err := store.ParseURI(uri)
		if err == nil {
			err = u.Check(memory.Driver(), file.driver("bbolt"), server)
		}
		if err != nil {
			if !errors.Is(err, store.ErrInvalid) {
				t.Errorf("parse %q: got %v, want an error that matches %v", uri, err, store.ErrInvalid)
			}
			return
		}
		switch u.Scheme() {
		case "memory":
		case "bbolt":
			if file.path == "" || strings.Contains(file.path, "\x00") || file.n < 0 || file.n > 9 || file.wait < 0 {
				t.Errorf("parse %q: got %+v, want a path and no number that means nothing", uri, *file)
			}
		case "server":
			if !strings.HasPrefix(address, "server:") || partitions < 0 || partitions > store.PartitionsMax {
				t.Errorf("parse %q: got %q with %d partitions, want an address", uri, address, partitions)
			}
		default:
			t.Errorf("parse %q: got scheme %q, for which there is no driver", uri, u.Scheme())
		}
	})
}
