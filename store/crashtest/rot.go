package crashtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/store"
)

const (
	// stepsOfRot is the number of commands that each of clientsOfRot clients commits to the
	// log before it is damaged.
	stepsOfRot   = 30
	clientsOfRot = 2
	// truncationOdds is the ratio: one damage in truncationOdds is a truncation, the others
	// flip a bit.
	truncationOdds = 8
)

// Rot fills a log and damages copies of its files: it flips one bit or truncates a file. A
// child process opens each copy and reads everything in it. The process must not die. Each
// answer must be the stored data, or an error that matches [store.ErrCorrupt]
// ([store.ErrFormat] too when the log is opened) and names the file, and the entity too if
// the question was about one.
func Rot(t testing.TB, s Subject) {
	t.Helper()
	k, s := prepare(t, s)
	if s.Place != nil {
		t.Skipf("%s does not keep its files in a directory", s.Name)
	}
	whole := s.place(t)
	keys := fill(t, k, &s, whole, 0)
	looker := &looker{TB: t, k: k, s: &s}
	want := looker.look(&wish{Place: whole, Keys: keys})
	if want == nil || want.Open != nil {
		t.Fatalf("the log that is whole cannot be read: %+v", want)
	}
	versions := make([]store.Version, len(keys))
	for i, key := range keys {
		versions[i] = want.version(key)
		if g := want.Groups["load "+key.String()]; g.Err != nil {
			t.Fatalf("the log that is whole cannot be read: %v", g.Err)
		}
	}
	want = looker.look(&wish{Place: whole, Keys: keys, Versions: versions})

	files := filesOf(t, whole)
	random := rand.New(rand.NewPCG(k.seed, 3))
	damaged := filepath.Join(tempDir(t), "damaged")
	refused, noticed := 0, 0
	for n := range s.Rots {
		if err := errors.Join(os.RemoveAll(damaged), copyFiles(damaged, whole)); err != nil {
			t.Fatalf("copy the log: %v", err)
		}
		what := damage(t, &s, damaged, files, random)
		got := looker.look(&wish{Place: damaged, Keys: keys, Versions: versions})
		if got == nil {
			t.Errorf("damage %d, %s: the process dies of it: %s", n, what, looker.died)
			return
		}
		wrong, saw := got.compare(want, damaged)
		if report(t, fmt.Sprintf("damage %d, %s", n, what), wrong) {
			return
		}
		if got.Open != nil {
			refused++
		} else if saw {
			noticed++
		}
	}
	t.Logf("%d damages: %d refused when the log is opened, %d noticed when it is read", s.Rots, refused, noticed)
	if refused+noticed < s.Rots/20 {
		t.Errorf("damages that were noticed: got %d of %d, want more, or the wrong bytes are damaged", refused+noticed, s.Rots)
	}
}

// fill stores records of all sorts and returns the entities.
func fill(t testing.TB, k *kit, s *Subject, place string, life int) []store.Key {
	t.Helper()
	log, err := s.Open(place)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	ctx := t.Context()
	clients, err := newClients(ctx, log, life, clientsOfRot, k.seed)
	if err != nil {
		t.Fatalf("begin: %v", err)
	}
	for range stepsOfRot {
		for _, c := range clients {
			_, out, err := c.commit(ctx, log, &journal{io.Discard})
			if err != nil || out.Error != "" {
				t.Fatalf("fill: %v, %+v", err, out)
			}
		}
	}
	if err := log.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	return allKeys(clientsOfRot)
}

// A rotFile is a file that can be damaged, up to the zeros at its end.
type rotFile struct {
	name string
	used int64
}

func filesOf(t testing.TB, place string) (files []rotFile) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(place), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(place, name))
		if used := len(bytes.TrimRight(b, "\x00")); used > 0 {
			files = append(files, rotFile{name, int64(used)})
		}
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatalf("files of %s: got %d and error %v", place, len(files), err)
	}
	return files
}

// copyFiles copies a directory. The zeros at the end of a file become a hole: a store may
// have allocated that room in advance, and copying it would take time for nothing.
func copyFiles(to, from string) error {
	return fs.WalkDir(os.DirFS(from), ".", func(name string, d fs.DirEntry, err error) error {
		path := filepath.Join(to, name)
		if err == nil && d.IsDir() {
			return os.Mkdir(path, 0o700)
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(from, name))
		if err == nil {
			err = os.WriteFile(path, bytes.TrimRight(b, "\x00"), 0o600)
		}
		if err == nil {
			err = os.Truncate(path, int64(len(b)))
		}
		return err
	})
}

// damage flips one bit or truncates a file, at an offset chosen with equal probability from
// all bytes of all files. It returns a description of the damage.
func damage(t testing.TB, s *Subject, place string, files []rotFile, random *rand.Rand) string {
	t.Helper()
	total := int64(0)
	for _, f := range files {
		total += f.used
	}
	for {
		at := random.Int64N(total)
		i := 0
		for ; at >= files[i].used; i++ {
			at -= files[i].used
		}
		name := files[i].name
		if s.Blind != nil && s.Blind(name, at) {
			continue
		}
		path := filepath.Join(place, name)
		if at > 0 && random.IntN(truncationOdds) == 0 {
			if err := os.Truncate(path, at); err != nil {
				t.Fatalf("truncate: %v", err)
			}
			return fmt.Sprintf("%s truncated to %d bytes", name, at)
		}
		bit := random.IntN(8)
		if err := flip(path, at, bit); err != nil {
			t.Fatalf("flip: %v", err)
		}
		return fmt.Sprintf("bit %d of byte %d of %s flipped", bit, at, name)
	}
}

// flip flips a bit of a file.
func flip(path string, at int64, bit int) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	var b [1]byte
	if _, err = f.ReadAt(b[:], at); err == nil {
		b[0] ^= 1 << bit
		_, err = f.WriteAt(b[:], at)
	}
	return errors.Join(err, f.Close())
}

// compare returns the answers that differ from the answers of the undamaged log without a
// proper error, and whether there was any error.
func (r *reading) compare(want *reading, place string) (wrong []string, noticed bool) {
	check := func(what string, e *fault, format bool) {
		noticed = true
		switch {
		case !e.Corrupt && (!format || !e.Format) && (!e.Broken || !r.corrupt()):
			wrong = append(wrong, fmt.Sprintf("%s: got error %q, want one that matches %v", what, e.Text, store.ErrCorrupt))
		case !strings.Contains(e.Text, place):
			wrong = append(wrong, fmt.Sprintf("%s: the error does not name the file: %q", what, e.Text))
		case e.Corrupt && e.wantsKey(what):
			wrong = append(wrong, fmt.Sprintf("%s: the error does not name the entity: %q", what, e.Text))
		}
	}
	if r.Open != nil {
		check("open", r.Open, true)
		return wrong, noticed
	}
	if v := r.Groups[verifyGroup]; v != nil && v.Err == nil && r.corrupt() {
		wrong = append(wrong, "verify: it finds nothing, though a read does")
	}
	for name, w := range want.Groups {
		g := r.Groups[name]
		switch {
		case g == nil:
			wrong = append(wrong, name+" was not read")
		case g.Err != nil && w.Err == nil:
			check(name, g.Err, false)
		case g.Err == nil && (g.Lines != w.Lines || g.Sum != w.Sum):
			wrong = append(wrong, fmt.Sprintf("%s: silently wrong: got %d lines that begin with %s, want %d", name, g.Lines, g.First, w.Lines))
		}
	}
	return wrong, noticed
}

// wantsKey reports whether the question was about an entity that the error does not name.
func (e *fault) wantsKey(what string) bool {
	sort, key, ok := strings.Cut(what, " ")
	return ok && (sort == "load" || sort == "read") && e.Key != key
}

// A looker reads logs in a child process, and starts another one when the child has died.
type looker struct {
	testing.TB
	k    *kit
	s    *Subject
	p    *process
	died string
}

// look returns the reading of the child process, or nil if the process died.
func (l *looker) look(w *wish) *reading {
	l.Helper()
	if l.p == nil {
		l.p = l.k.launch(l, &orders{Mode: "look", Subject: l.s.Name})
	}
	limit := time.AfterFunc(waitMax, l.p.kill)
	defer limit.Stop()
	if err := writeJSON(l.p.stdin, w); err == nil {
		if line, err := l.p.next(); err == nil && line.Reading != nil {
			return line.Reading
		}
	}
	l.p.kill()
	l.died = "killed after " + waitMax.String()
	if err := l.p.wait(); err != nil {
		l.died = err.Error()
	}
	l.p = nil
	return nil
}

// lookAll reads one log for each wish, until the end of the input.
func lookAll(ctx context.Context, s *Subject, j *journal) error {
	return eachWish(os.Stdin, func(w *wish) error {
		return j.write(&line{Reading: read(ctx, s, w)})
	})
}
