package crashtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/perdure/perdure/store"
)

// child carries out the orders in the environment, if there are any, and returns the exit
// code. If there are none, ok is false.
func (k *kit) child() (code int, ok bool) {
	text := os.Getenv(childVariable)
	if text == "" {
		return 0, false
	}
	var o orders
	j := &journal{os.Stdout}
	err := json.Unmarshal([]byte(text), &o)
	if err == nil {
		err = k.obey(&o, j)
	}
	if err != nil {
		_ = j.write(&line{Failure: err.Error()}) // the test may be gone, so the error is dropped
		return codeFailure, true
	}
	return 0, true
}

func (k *kit) obey(o *orders, j *journal) error {
	if o.Mode == "janitor" {
		_, _ = io.Copy(io.Discard, os.Stdin) // returns when the test process has ended
		return sweep(o.Place)
	}
	var s *Subject
	for i := range k.subjects {
		if k.subjects[i].Name == o.Subject {
			s = &k.subjects[i]
		}
	}
	if s == nil {
		return fmt.Errorf("there is no subject %q", o.Subject)
	}
	if o.Mode == "look" {
		return lookAll(context.Background(), s, j)
	}
	// If the test process dies, nothing else ends this one. The end of its input does.
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		end()
	}()
	if o.Mode == "script" {
		return script(context.Background(), s, o, j)
	}
	return load(context.Background(), s, o, j)
}

// end ends the process without closing anything.
func end() {
	p, err := os.FindProcess(os.Getpid())
	if err == nil {
		_ = p.Kill()
	}
}

// load lets the clients commit until one of them gets an error or the process is killed.
func load(ctx context.Context, s *Subject, o *orders, j *journal) error {
	log, err := s.Open(o.Place)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	clients, err := newClients(ctx, log, o.Life, o.Clients, o.Seed)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if err := j.write(&line{Ready: true}); err != nil {
		return err
	}
	var wg sync.WaitGroup
	failed := make(chan error, len(clients))
	for _, c := range clients {
		wg.Go(func() {
			for {
				_, out, err := c.commit(ctx, log, j)
				if err == nil && out.Error != "" {
					err = errors.New(out.Error)
				}
				if err != nil {
					failed <- err
					return
				}
			}
		})
	}
	wg.Wait()
	return <-failed
}

// livesMax bounds how often a script reopens its log.
const livesMax = 3

// script lets one client commit a few commands. After an error it tries one more commit,
// reopens the log, reads the outcome of the failed commands and continues as the next life.
// It ends without closing the log.
func script(ctx context.Context, s *Subject, o *orders, j *journal) error {
	var failed []*command
	for life := o.Life; life < o.Life+livesMax; life++ {
		log, err := s.Open(o.Place)
		if err != nil {
			return fmt.Errorf("open: %w", err)
		}
		for _, cmd := range failed {
			if err := look(ctx, log, cmd, j); err != nil {
				return err
			}
		}
		if len(failed) > 0 && o.Rest {
			return nil
		}
		if failed, err = scriptLife(ctx, log, o, life, j); err != nil || len(failed) == 0 {
			return err
		}
		_ = log.Close() // closing a broken log may fail
	}
	return errors.New("errors do not end")
}

// scriptLife commits commands until one fails, then tries one more, and returns the
// commands that failed.
func scriptLife(ctx context.Context, log store.Log, o *orders, life int, j *journal) (failed []*command, err error) {
	clients, err := newClients(ctx, log, life, 1, o.Seed)
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	if err := j.write(&line{Ready: true}); err != nil {
		return nil, err
	}
	c := clients[0]
	for range o.Steps {
		cmd, out, err := c.commit(ctx, log, j)
		if err != nil {
			return nil, err
		}
		if out.Error == "" {
			if len(failed) > 0 {
				return failed, nil
			}
			continue
		}
		if failed = append(failed, cmd); len(failed) == 2 {
			return failed, nil
		}
		// Decide the next command on the versions that the log has now, if it can be read.
		for _, key := range c.own {
			if v, err := versionOf(ctx, log, key); err == nil {
				c.versions[key] = v
			}
		}
	}
	return failed, nil
}

// look reads whether a command is stored, and writes the answer to the journal. It does
// nothing for a command whose first batch has neither an event nor a receipt to look for.
func look(ctx context.Context, log store.Log, cmd *command, j *journal) error {
	p, n := &cmd.Parts[0], cmd.name(0)
	saw := &sight{Life: cmd.Life, Client: cmd.Client, Number: cmd.Number}
	switch {
	case len(p.Sizes) > 0:
		for e, err := range log.Read(ctx, p.Key, p.Expected) {
			if err != nil {
				return fmt.Errorf("look: %w", err)
			}
			saw.Stored = saw.Stored || nameOf(e.Payload) == n.of("event", 0)
		}
	case p.Receipt:
		_, err := log.Receipt(ctx, p.Key, string(n))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("look: %w", err)
		}
		saw.Stored = err == nil
	default:
		return nil
	}
	return j.write(&line{Saw: saw})
}
