package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	superuser = "postgres"
	// socketBytesMax bounds the path of a Unix socket on all systems.
	socketBytesMax = 100
)

// errMissing says that PostgreSQL is not installed.
var errMissing = errors.New("PostgreSQL is not installed: there is no initdb in PATH or /usr/lib/postgresql")

// configuration is the configuration of every cluster. It keeps syncing on: without it, a crash
// test would prove nothing.
const configuration = `
listen_addresses = ''
fsync = on
synchronous_commit = on
full_page_writes = on
max_connections = 400
max_wal_size = 2GB
log_min_messages = fatal
log_checkpoints = off
`

// supervise is a script that runs a server until the test process says so or is gone: then the
// process's end of the pipe closes. Only after that does the script remove the directory.
const supervise = `
"$1" -D "$2/data" -k "$2" -p 5432 >>"$2/log" 2>&1 </dev/null &
server=$!
if read -r how && [ "$how" != remove ]; then
	kill -"$how" $server; wait $server
else
	kill -QUIT $server; wait $server; rm -rf "$2"
fi
`

// A Server is a running cluster.
type Server struct {
	bin string // directory of the binaries
	dir string // directory of the socket, the log and the data

	mu   sync.Mutex
	run  *exec.Cmd // the supervisor; nil if stopped
	pipe io.WriteCloser

	leftMu  sync.Mutex
	left    []string // databases of finished tests
	leftMax int
}

// newServer creates a cluster and starts it.
func newServer(settings ...string) (_ *Server, err error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	owner, err := serverAccount()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(parent(owner), "pgtest-")
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin, dir: dir, leftMax: leftMax}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	if owner != nil {
		if err := os.Chown(dir, int(owner.uid), int(owner.gid)); err != nil {
			return nil, err
		}
	}
	// The first checkpoint syncs the files, so initdb need not.
	init := exec.Command(filepath.Join(bin, "initdb"), "-D", filepath.Join(dir, "data"), "-U", superuser,
		"-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	init.Dir, init.SysProcAttr = dir, attributes(owner)
	if out, err := init.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	f, err := os.OpenFile(filepath.Join(dir, "data", "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	_, err = f.WriteString(configuration + strings.Join(settings, "\n") + "\n")
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return s, s.start()
}

// Replica creates a physical replica of the server's current state, and starts it. If follow is
// true, the replica follows the server; otherwise it stays behind. It is stopped when the test
// ends.
func (s *Server) Replica(tb testing.TB, follow bool) *Server {
	tb.Helper()
	owner, err := serverAccount()
	if err != nil {
		tb.Fatalf("replica: %v", err)
	}
	dir, err := os.MkdirTemp(parent(owner), "pgtest-") //nolint:usetesting // the user of the server must reach it
	if err == nil && owner != nil {
		err = os.Chown(dir, int(owner.uid), int(owner.gid))
	}
	if err != nil {
		tb.Fatalf("replica: %v", err)
	}
	r := &Server{bin: s.bin, dir: dir, leftMax: leftMax}
	tb.Cleanup(r.close)
	backup := exec.Command(filepath.Join(s.bin, "pg_basebackup"), "-h", s.dir, "-U", superuser,
		"-D", filepath.Join(dir, "data"), "-X", "stream", "-c", "fast", "--no-sync")
	backup.Dir, backup.SysProcAttr = dir, attributes(owner)
	if out, err := backup.CombinedOutput(); err != nil {
		tb.Fatalf("pg_basebackup: %v\n%s", err, out)
	}
	conf := "hot_standby = on\nwal_retrieve_retry_interval = '100ms'\n"
	if follow {
		conf += "primary_conninfo = 'host=" + s.dir + " user=" + superuser + " application_name=replica'\n"
	}
	f, err := os.OpenFile(filepath.Join(dir, "data", "postgresql.auto.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(conf)
		err = errors.Join(err, f.Close(), os.WriteFile(filepath.Join(dir, "data", "standby.signal"), nil, 0o600))
	}
	if err == nil {
		err = r.start()
	}
	if err != nil {
		tb.Fatalf("start the replica: %v", err)
	}
	return r
}

// Promote promotes a replica, and waits until it is a primary.
func (s *Server) Promote(tb testing.TB) {
	tb.Helper()
	if err := s.exec("SELECT pg_promote(wait => true)"); err != nil {
		tb.Fatalf("promote: %v", err)
	}
}

// Log returns the text of the server's log.
func (s *Server) Log(tb testing.TB) string {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		tb.Fatalf("read the server's log: %v", err)
	}
	return string(text)
}

// start starts the server and waits until it answers.
func (s *Server) start() error {
	owner, err := serverAccount()
	if err != nil {
		return err
	}
	run := exec.Command("/bin/sh", "-c", supervise, "sh", filepath.Join(s.bin, "postgres"), s.dir)
	run.Dir, run.SysProcAttr = s.dir, attributes(owner)
	pipe, err := run.StdinPipe()
	if err != nil {
		return err
	}
	if err := run.Start(); err != nil {
		return err
	}
	s.mu.Lock()
	s.run, s.pipe = run, pipe
	s.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.Background(), waitMax)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, s.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-ctx.Done():
			log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			s.end("QUIT")
			return fmt.Errorf("the server does not answer after %v: %w\n%s", waitMax, err, bytes.TrimSpace(log))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop stops the server. The mode "fast" rolls back and cuts connections; "immediate" is like a
// crash of all its processes. Stop returns after the server has ended.
func (s *Server) Stop(tb testing.TB, mode string) {
	tb.Helper()
	signal, ok := map[string]string{"fast": "INT", "immediate": "QUIT"}[mode]
	if !ok {
		tb.Fatalf("stop PostgreSQL: no mode %q", mode)
	}
	s.end(signal)
}

// Restart starts a stopped server again, and waits for its recovery.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	if err := s.start(); err != nil {
		tb.Fatalf("restart PostgreSQL: %v", err)
	}
}

// Checksums makes a stopped server keep a checksum on each page, including existing pages.
func (s *Server) Checksums(tb testing.TB) {
	tb.Helper()
	owner, err := serverAccount()
	if err != nil {
		tb.Fatalf("checksums: %v", err)
	}
	enable := exec.Command(filepath.Join(s.bin, "pg_checksums"), "--enable", "--no-sync", "-D", filepath.Join(s.dir, "data"))
	enable.Dir, enable.SysProcAttr = s.dir, attributes(owner)
	if out, err := enable.CombinedOutput(); err != nil {
		tb.Fatalf("pg_checksums: %v\n%s", err, out)
	}
}

// Overwrite overwrites bytes in a file of a stopped server. The name of the file is a result of
// pg_relation_filepath.
func (s *Server) Overwrite(tb testing.TB, file string, at int64, bytes []byte) {
	tb.Helper()
	f, err := os.OpenFile(filepath.Join(s.dir, "data", file), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(bytes, at)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		tb.Fatalf("overwrite: %v", err)
	}
}

func (s *Server) close() {
	s.end("remove")
	_ = os.RemoveAll(s.dir) // needed if the server was stopped before
}

// end sends a command to the supervisor, and waits for its end.
func (s *Server) end(how string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run == nil {
		return
	}
	_, _ = io.WriteString(s.pipe, how+"\n") // if this fails, closing the pipe means remove
	_ = s.pipe.Close()
	_ = s.run.Wait() // the status is that of the killed server
	s.run = nil
}

func (s *Server) stopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.run == nil
}

// binaries returns the directory of the newest installed PostgreSQL.
func binaries() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path), nil
		}
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", errMissing
	}
	release := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path)))) // 0 if it is not a number
		return n
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return release(a) - release(b) })), nil
}

// An account is a user of the operating system.
type account struct{ uid, gid uint32 }

// serverAccount returns the account that runs the server if the tests run as root, because
// PostgreSQL refuses to run as root. It returns nil if the account of the tests runs the server,
// which is always so on Windows.
func serverAccount() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, err
		}
		return &account{uid: uint32(uid), gid: uint32(gid)}, nil
	}
	return nil, errors.New("the tests run as root, and there is no user postgres or nobody to run PostgreSQL as")
}

// parent returns the directory for clusters. It is the one for temporary files, unless the server's
// user cannot enter that one or the path is too long for a socket.
func parent(a *account) string {
	dir := os.TempDir()
	if len(dir) > socketBytesMax-len("/pgtest-4294967295/.s.PGSQL.5432") {
		return "/tmp"
	}
	for up := dir; a != nil && up != filepath.Dir(up); up = filepath.Dir(up) {
		if info, err := os.Stat(up); err != nil || info.Mode().Perm()&1 == 0 {
			return "/tmp"
		}
	}
	return dir
}
