package crashtest

import (
	"context"
	"flag"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/perdure/perdure/store"
)

// waitMax bounds every wait for a process or a file system. It only ends a test that
// hangs: on a busy machine a process that reads a damaged log may take a minute.
const waitMax = 5 * time.Minute

// A Subject is a store under test. A count of zero means the default. The defaults together
// take well below two minutes; under the race detector a quarter of the work is done, and
// with -short a tenth. The flags -crash.kills, -crash.powers, -crash.rots and -crash.stride
// of the test binary take precedence over the counts.
type Subject struct {
	// Name identifies the subject among the subjects of one test binary.
	Name string
	// Open opens the log at a place, and creates it if there is none. The place is a
	// directory that exists, or the value that Place returned. Child processes call it too,
	// so it must not depend on a running test.
	Open func(place string) (store.Log, error)
	// Place returns the place of a new, empty log, such as the URI of a new database of a
	// server. Nil means a new directory. Only [Kill] works on a store with Place; the
	// others need its files.
	Place func(t testing.TB) string
	// Quiet waits until the server has finished the work that a killed client had begun,
	// because that work may still be committed after the client's death. Kill calls it
	// before it reads the log. Nil is for a store without a server.
	Quiet func(ctx context.Context, place string) error
	// Blind reports whether the store is known, and documented, not to notice damage to the
	// byte at an offset of a file. The file's name is relative to the place. Rot does not
	// damage those bytes. Nil means that the store notices all damage.
	Blind func(file string, at int64) bool

	// Verify checks a whole log and returns the damage that it finds as an error. If it is
	// set, Rot demands that Verify notices all damage that any read notices.
	Verify func(ctx context.Context, log store.Log) error

	// Kills is the number of times that Kill ends a process. Zero means 100.
	Kills int
	// Powers is the number of times that Power cuts the power. Zero means 60.
	Powers int
	// Rots is the number of times that Rot damages a copy of the log. Zero means 200.
	Rots int
	// Medias is the number of copies of the log that Media damages. Zero means 80.
	Medias int
	// Stride is the distance between the operations that IO makes fail. With 1 each
	// operation fails in one run, with each fault that it can have. Zero means 4.
	Stride int
}

// Defaults of a [Subject].
const (
	killsDefault  = 100
	powersDefault = 60
	rotsDefault   = 200
	mediasDefault = 80
	strideDefault = 4
)

// counts are the values of the flags; zero means that a flag is not set.
type counts struct{ kills, powers, rots, medias, stride int }

// A kit holds the subjects and flags of Main. There is one per test binary.
type kit struct {
	subjects []Subject
	counts   counts
	seed     uint64
}

// theKit is set by Main before a test runs, and only read after that.
var theKit *kit

// Main runs the tests of a package that uses the kit, and returns the exit code. TestMain
// calls it with all subjects, before flags are parsed:
//
//	func TestMain(m *testing.M) { os.Exit(crashtest.Main(m, subject)) }
//
// In a process that the kit started as a child, Main carries out the kit's orders instead
// of running tests.
func Main(m *testing.M, subjects ...Subject) int {
	k := &kit{subjects: subjects}
	if code, ok := k.child(); ok {
		return code
	}
	flag.IntVar(&k.counts.kills, "crash.kills", 0, "how often a process is killed (0: as the subject says)")
	flag.IntVar(&k.counts.powers, "crash.powers", 0, "how often the power is cut (0: as the subject says)")
	flag.IntVar(&k.counts.rots, "crash.rots", 0, "how many damages are done to the files (0: as the subject says)")
	flag.IntVar(&k.counts.medias, "crash.media", 0, "how many logs are damaged as failing media do (0: as the subject says)")
	flag.IntVar(&k.counts.stride, "crash.stride", 0, "at every how many operations one fails, 1 for all of them (0: as the subject says)")
	flag.Uint64Var(&k.seed, "crash.seed", 1, "what decides everything that is random")
	theKit = k
	return m.Run()
}

// shortDivisor divides the default counts with -short.
const shortDivisor = 10

// Run runs every part of the kit that applies to the subject, as parallel sub-tests of t.
// With -short it runs [Kill] alone, the only part in which several clients commit at once.
func Run(t *testing.T, s Subject) {
	for _, part := range []struct {
		name string
		run  func(testing.TB, Subject)
	}{{"kill", Kill}, {"power", Power}, {"io", IO}, {"rot", Rot}} {
		t.Run(part.name, func(t *testing.T) {
			t.Parallel()
			if testing.Short() && part.name != "kill" {
				t.Skip("-short: it looks at files, and does one thing at a time")
			}
			part.run(t, s)
		})
	}
}

// prepare returns the kit, and the subject with its counts filled in.
func prepare(t testing.TB, s Subject) (*kit, Subject) {
	t.Helper()
	if theKit == nil {
		t.Fatal("crashtest: TestMain does not call crashtest.Main")
	}
	found := false
	for i := range theKit.subjects {
		found = found || theKit.subjects[i].Name == s.Name
	}
	if !found {
		t.Fatalf("crashtest: TestMain does not name the subject %q to crashtest.Main", s.Name)
	}
	divisor := raceDivisor
	if testing.Short() {
		divisor = shortDivisor
	}
	choose := func(n *int, flag, standard int) {
		if *n == 0 {
			*n = standard
		}
		*n = max(1, *n/divisor)
		if flag > 0 {
			*n = flag
		}
	}
	choose(&s.Kills, theKit.counts.kills, killsDefault)
	choose(&s.Powers, theKit.counts.powers, powersDefault)
	choose(&s.Rots, theKit.counts.rots, rotsDefault)
	choose(&s.Medias, theKit.counts.medias, mediasDefault)
	if s.Stride == 0 {
		s.Stride = strideDefault
	}
	s.Stride *= divisor
	if theKit.counts.stride > 0 {
		s.Stride = theKit.counts.stride
	}
	return theKit, s
}

// place returns the place of a new log.
func (s *Subject) place(t testing.TB) string {
	t.Helper()
	if s.Place != nil {
		return s.Place(t)
	}
	return tempDir(t)
}

// homePrefix begins the names of all directories of the kit. The process id follows, so
// that directories of processes that have ended can be recognized.
const homePrefix = "perdure-crash-"

// makeHome makes a directory for files that need not be on a disk, and removes the
// directories of processes that have ended.
func makeHome() (string, error) {
	sweepLeftovers()
	return os.MkdirTemp(scratch(), homePrefix+strconv.Itoa(os.Getpid())+"-")
}

// tempDir returns a new directory that is removed at the end of the test.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := makeHome()
	if err != nil {
		t.Fatalf("make a directory: %v", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return dir
}
