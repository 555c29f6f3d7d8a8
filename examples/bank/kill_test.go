package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perdure/perdure"
	bankv1 "github.com/perdure/perdure/examples/bank/proto/bank/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
)

// childEnv is the variable with the directory of a process that will be killed.
const childEnv = "PERDURE_BANK_CHILD"

const (
	killsMax  = 10
	patience  = 10 * time.Minute // bounds the whole test
	customers = 10
	transfers = 300
	riches    = 1000_00
)

// locked makes writes from many goroutines wait for each other.
type locked struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// logFile and letterFile are the files of a bank in a directory.
func logFile(dir string) string    { return "bbolt:" + filepath.Join(dir, "bank.db") }
func letterFile(dir string) string { return filepath.Join(dir, "letters") }

// busy makes many transfers at the same time and waits for each. It prints "ready" when the
// first have begun. It uses the same keys each time, so it continues where an earlier
// process was killed. It writes the id and the cause of each letter.
func busy(ctx context.Context, dir string) (err error) {
	log, err := store.Open(ctx, logFile(dir), bbolt.Driver())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	file, err := os.OpenFile(letterFile(dir), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	engine, err := openBank(ctx, log, perdure.Perform(func(ctx context.Context, _ *bankv1.Notice) error {
		d := perdure.EffectInfoFrom(ctx)
		_, err := fmt.Fprintln(file, d.ID, d.Metadata.CausationID)
		return err
	}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Close(ctx)) }()
	name := func(n int) string { return fmt.Sprint("customer ", n%customers) }
	for n := range customers {
		if _, err := Accounts.Ref(engine, name(n)).Do(ctx, &bankv1.OpenAccount{Owner: name(n), Balance: riches}, perdure.WithIdempotencyKey("open")); err != nil {
			return err
		}
	}
	// The last account accepts no money.
	if _, err := Accounts.Ref(engine, name(customers-1)).Do(ctx, &bankv1.CloseAccount{}, perdure.WithIdempotencyKey("close")); err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make(chan error, transfers)
	for n := range transfers {
		wg.Go(func() {
			command := &bankv1.StartTransfer{From: name(n), To: name(n + 1 + n%7), Amount: int64(1 + n)}
			_, err := Transfers.Ref(engine, fmt.Sprint(n)).Do(ctx, command, perdure.WithIdempotencyKey("start"))
			errs <- err
		})
	}
	fmt.Println("ready")
	wg.Wait()
	close(errs)
	for e := range errs {
		err = errors.Join(err, e)
	}
	for n := range transfers {
		key := Transfers.Ref(engine, fmt.Sprint(n)).Key()
		err = errors.Join(err, wait(ctx, engine, key, &bankv1.TransferCompleted{}, &bankv1.TransferFailed{}))
	}
	return errors.Join(err, posted(ctx, engine))
}

// posted waits until all letters are written.
func posted(ctx context.Context, engine *perdure.Engine) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		pending := 0
		for _, err := range engine.Pending(ctx) {
			if err != nil {
				return err
			}
			pending++
		}
		if pending == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d messages are still pending: %w", pending, ctx.Err())
		}
	}
}

// child runs busy in a process of its own. If life is above zero, it kills the process that
// long after "ready"; killed reports whether the process was still running then.
func child(ctx context.Context, t *testing.T, dir string, life time.Duration) (killed bool) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var stop func() bool
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err == nil && life > 0 {
		timer := time.AfterFunc(life, func() { cmd.Process.Kill() }) //nolint:errcheck // it may have ended
		stop = timer.Stop
	}
	err = cmd.Wait()
	if stop != nil {
		stop()
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == -1 && life > 0:
		return true
	case err != nil:
		t.Fatalf("bank: %v\n%s", err, stderr.String())
	}
	return false
}

func TestMoneyIsNeitherMadeNorLostByKill9(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it kills processes")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	dir := t.TempDir()
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	killed := 0
	for range killsMax {
		if child(ctx, t, dir, time.Duration(1+random.IntN(60))*time.Millisecond) {
			killed++
		}
	}
	if killed == 0 {
		t.Error("no process was killed: the test tests nothing")
	}
	t.Logf("%d of %d processes were killed, seed %d", killed, killsMax, seed)
	child(ctx, t, dir, 0)

	log, err := store.Open(ctx, logFile(dir), bbolt.Driver())
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() //nolint:errcheck // it was only read
	balance, moving, err := audit(ctx, log)
	if err != nil || balance != customers*riches || moving != 0 {
		t.Errorf("%d in accounts and %d on the way, %v, want %d and nothing", balance, moving, err, customers*riches)
	}
	ends := map[string]int{}
	causes := map[string]bool{} // causes of the letters that must be written
	completed := 0
	for ev, err := range log.Scan(ctx, store.Query{Kinds: []string{Transfers.Name()}}) {
		if err != nil {
			t.Fatal(err)
		}
		switch ev.Type {
		case "bank.v1.TransferCompleted":
			completed++
			fallthrough
		case "bank.v1.TransferFailed":
			ends[ev.Key.ID]++
			causes[ev.Metadata.CausationID.String()] = true
		}
	}
	for id, n := range ends {
		if n != 1 {
			t.Errorf("transfer %s has ended %d times", id, n)
		}
	}
	if len(ends) != transfers || completed == 0 || completed == transfers {
		t.Errorf("%d of %d transfers have ended, %d of them well; want all, and some not well", len(ends), transfers, completed)
	}
	written, err := os.ReadFile(letterFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]string{} // ids of letters, by cause
	for line := range strings.Lines(string(written)) {
		id, cause, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !causes[cause] {
			t.Errorf("a letter is written for %s, which is not in the log", cause)
		}
		if ids[cause] != "" && ids[cause] != id {
			t.Errorf("the letter for %s is written as %s, and was as %s before", cause, id, ids[cause])
		}
		ids[cause] = id
	}
	if len(ids) != len(causes) {
		t.Errorf("letters are written for %d ends of transfers, want all %d", len(ids), len(causes))
	}
	t.Logf("%d letters are written, %d of them again", bytes.Count(written, []byte("\n")), bytes.Count(written, []byte("\n"))-len(ids))
}
