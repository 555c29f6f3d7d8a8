package pgtest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/store/postgres/pgtest"
)

const childEnv = "PGTEST_CHILD"

func TestDatabaseBelongsToOneTestAndSyncs(t *testing.T) {
	t.Parallel()
	a, b := pgtest.Open(t), pgtest.Open(t)
	a.Exec(t, "CREATE TABLE t (n int)")
	b.Exec(t, "CREATE TABLE t (n int)")

	var fsync, commit string
	row := a.Pool(t, "pool_max_conns=2").QueryRow(t.Context(), "SELECT current_setting('fsync'), current_setting('synchronous_commit')")
	if err := row.Scan(&fsync, &commit); err != nil {
		t.Fatal(err)
	}
	if fsync != "on" || commit != "on" {
		t.Errorf("fsync is %s and synchronous_commit %s, want both on", fsync, commit)
	}
}

func TestServerKeepsItsDatabasesOverARestart(t *testing.T) {
	t.Parallel()
	skipIfShort(t)
	s := pgtest.Start(t, "max_connections = 10")
	d := s.Database(t)
	d.Exec(t, "CREATE TABLE t (n int); INSERT INTO t VALUES (7)")
	s.Stop(t, "immediate")
	if conn, err := pgx.Connect(t.Context(), d.URL); err == nil {
		t.Errorf("a stopped server answers: %v", conn.Close(t.Context()))
	}
	s.Restart(t)
	var n int
	if err := d.Pool(t).QueryRow(t.Context(), "SELECT n FROM t").Scan(&n); err != nil || n != 7 {
		t.Errorf("after the crash: got %d, %v, want 7", n, err)
	}
}

// TestChild is what TestProcessThatIsKilledLeavesNothing kills.
func TestChild(t *testing.T) {
	t.Parallel()
	if os.Getenv(childEnv) == "" {
		t.Skip("it is the child of another test")
	}
	d := pgtest.Open(t)
	if _, err := os.Stdout.WriteString(filepath.Dir(d.Server.Socket()) + "\n"); err != nil {
		t.Fatal(err)
	}
	<-t.Context().Done() // never: it is killed
}

func TestProcessThatIsKilledLeavesNothing(t *testing.T) {
	t.Parallel()
	skipIfShort(t)
	pgtest.Open(t) // or skip
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$")
	child.Env = append(os.Environ(), childEnv+"=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 200)
	n, err := out.Read(line)
	if err != nil {
		t.Fatalf("read from the child: %v", err)
	}
	dir := strings.TrimSpace(string(line[:n]))
	if _, err := os.Stat(dir); err != nil {
		t.Fatalf("the child says that its cluster is in %q: %v", dir, err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	late := time.After(time.Minute)
	for tick := time.Tick(10 * time.Millisecond); ; {
		if _, err := os.Stat(dir); os.IsNotExist(err) {
			return
		}
		select {
		case <-tick:
		case <-late:
			t.Fatalf("%s is still there a minute after its test process was killed", dir)
		}
	}
}

func skipIfShort(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: it starts a server of its own")
	}
}

func TestDatabasesThatTestsHaveLeftAreFew(t *testing.T) { //nolint:tparallel // one is left before the next begins
	t.Parallel()
	skipIfShort(t)
	s := pgtest.Start(t)
	s.Leave(1)
	for range 3 {
		t.Run("test", func(t *testing.T) { s.Database(t) })
	}
	var n int
	row := s.Database(t).Pool(t).QueryRow(t.Context(), "SELECT count(*) FROM pg_database WHERE datname LIKE 'test%'")
	if err := row.Scan(&n); err != nil || n != 2 {
		t.Errorf("databases after three tests, with this one: got %d, %v, want 2", n, err)
	}
}
