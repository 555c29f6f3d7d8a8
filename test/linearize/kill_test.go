package linearize_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
)

// The environment of a process that will be killed: the name of its store, the directory of
// the store, the number of its life, and the seed.
const (
	victimStore = "PERDURE_PROOF_STORE"
	victimDir   = "PERDURE_PROOF_STORE_DIR"
	victimLife  = "PERDURE_PROOF_LIFE"
	victimSeed  = "PERDURE_PROOF_SEED"
)

// TestMain turns the test binary into the process that is killed.
func TestMain(m *testing.M) {
	if name := os.Getenv(victimStore); name != "" {
		if err := beVictim(name); err != nil {
			_, _ = fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

const (
	lives        = 5   // number of processes
	victimLines  = 900 // lines that a process writes before it is killed; more in each life
	victimsEach  = 2   // clients per entity
	victimNumber = 1000
)

// beVictim runs clients until the process is killed, and writes their calls. Each line is
// one write to the pipe, before the call and after it. So the lines are in the order of
// time, and all written lines are there however the process ends.
func beVictim(name string) error {
	var life int
	var seed uint64
	if _, err := fmt.Sscan(os.Getenv(victimLife)+" "+os.Getenv(victimSeed), &life, &seed); err != nil {
		return err
	}
	for _, sc := range stores {
		if sc.name != name {
			continue
		}
		log, err := sc.open(nil, os.Getenv(victimDir), nil)
		if err != nil {
			return err
		}
		m, err := newMachine(context.Background(), log)
		if err != nil {
			return err
		}
		w := &lineWriter{out: os.Stdout}
		for n := range entities * victimsEach {
			c := newClient(life*victimNumber+n, n%entities, seed, w, only{m})
			go func() {
				for {
					c.call(context.Background())
				}
			}()
		}
		select {}
	}
	return fmt.Errorf("there is no store %q", name)
}

// only is a host with one engine.
type only struct{ machine *machine }

func (o only) ref(_ context.Context, _, entity int) (perdure.Ref[*testv1.Account], error) {
	return o.machine.ref(entity), nil
}

// A lineWriter is a recorder that writes each op twice, as JSON.
type lineWriter struct {
	mu  sync.Mutex
	out io.Writer
}

func (w *lineWriter) begin(o *op) { w.write(o) }
func (w *lineWriter) end(o *op)   { w.write(o) }

func (w *lineWriter) write(o *op) {
	w.mu.Lock()
	defer w.mu.Unlock()
	line, err := json.Marshal(o)
	if err == nil {
		_, err = w.out.Write(append(line, '\n'))
	}
	if err != nil {
		panic(err) // the test has closed the pipe
	}
}

// TestLinearizableWhenProcessesAreKilled kills the process of the clients and
// the engine, again and again, on every store that survives a kill.
func TestLinearizableWhenProcessesAreKilled(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: it kills processes")
	}
	for _, sc := range stores {
		if !sc.durable {
			continue
		}
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			seed := chooseSeed(t)
			dir := t.TempDir()
			create(t, sc, dir)
			h := new(history)
			for life := range lives {
				runAndKill(t, h, sc, dir, life, seed)
			}
			log, err := sc.open(t, dir, nil)
			if err != nil {
				t.Fatalf("open the store after the last kill: %v", err)
			}
			look(t, h, log)
			checkAll(t, h, log)
			if err := log.Close(); err != nil {
				t.Errorf("close the store: %v", err)
			}
		})
	}
}

// create opens the store once in this process, because only a test can create a database.
func create(t *testing.T, sc storeCase, dir string) {
	t.Helper()
	log, err := sc.open(t, dir, nil)
	if err == nil {
		err = log.Close()
	}
	if err != nil {
		t.Fatalf("create the store: %v", err)
	}
}

// runAndKill starts a process, kills it when it has written some lines, and adds its lines
// to the history. Calls that have not returned have an unknown outcome.
func runAndKill(t *testing.T, h *history, sc storeCase, dir string, life int, seed uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), runMax)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), victimStore+"="+sc.name, victimDir+"="+dir,
		fmt.Sprintf("%s=%d", victimLife, life), fmt.Sprintf("%s=%d", victimSeed, seed))
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := sync.OnceFunc(func() { _ = cmd.Process.Kill() })
	defer func() {
		kill()
		_ = cmd.Wait() // it was killed
	}()
	open := make(map[int]*op) // by client
	n := 0
	for lines := bufio.NewScanner(out); lines.Scan(); n++ {
		o := new(op)
		if err := json.Unmarshal(lines.Bytes(), o); err != nil {
			if n > victimLines {
				return // the process was writing this line when it died
			}
			t.Fatalf("the process says %q", lines.Text())
		}
		if begun := open[o.Client]; begun != nil {
			delete(open, o.Client)
			o.Begin = begun.Begin
			*begun = *o
			h.end(begun)
		} else {
			open[o.Client] = o
			h.begin(o)
		}
		if n == victimLines*(life+1) {
			kill()
		}
	}
	if n <= victimLines*(life+1) {
		t.Fatalf("the process has ended by itself after %d lines", n)
	}
}
