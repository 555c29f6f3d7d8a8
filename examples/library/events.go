package main

import (
	"context"
	"errors"
	"iter"
	"sync"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/stream"
)

func (a *app) historyCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "history ID",
		Short:   "Show all that has happened to a book",
		Example: "  library history dracula",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.history(cmd.Context(), args[0], asJSON) },
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print each event as a line of JSON")
	return c
}

func (a *app) history(ctx context.Context, id string, asJSON bool) error {
	key := bookKey(id)
	if err := key.Validate(); err != nil {
		return err
	}
	return a.withLibrary(ctx, func(engine *perdure.Engine) error {
		found := false
		for event, err := range engine.Store().Read(ctx, key, 0) {
			if err != nil {
				return err
			}
			found = true
			if err := a.printEvent(event, asJSON); err != nil {
				return err
			}
		}
		if !found && !asJSON {
			a.out.printf("Nothing has ever happened to %v.\n", key)
		}
		return nil
	})
}

func (a *app) eventsCommand() *cobra.Command {
	var f struct {
		json, follow bool
		after        string
	}
	c := &cobra.Command{
		Use:   "events",
		Short: "Show all that has happened, in the order of the log",
		Long: `Events shows all that has happened, in the order of the log, and with --follow
goes on with what happens, until it is interrupted.

A log of bbolt or Pebble belongs to one process at a time, so no other process can
write the events for which --follow waits. Use it on a store that is shared.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			return a.withLibrary(ctx, func(engine *perdure.Engine) error {
				from, err := starts(ctx, engine, f.after)
				if err != nil {
					return err
				}
				if f.follow {
					return a.follow(ctx, engine, from, f.json)
				}
				for _, after := range from {
					if err := a.printEvents(engine.Store().Scan(ctx, store.Query{After: after}), f.json); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	c.Flags().BoolVar(&f.json, "json", false, "print each event as a line of JSON")
	c.Flags().BoolVar(&f.follow, "follow", false, "go on with new events as they are committed")
	c.Flags().StringVar(&f.after, "after", "", "begin behind this `POSITION`, in its partition alone; without it all partitions are shown")
	return c
}

// starts returns the positions after which to begin, one for each requested partition.
func starts(ctx context.Context, engine *perdure.Engine, after string) ([]store.Position, error) {
	if after != "" {
		p, err := store.ParsePosition(after)
		return []store.Position{p}, err
	}
	heads, err := engine.Store().Heads(ctx)
	if err != nil {
		return nil, err
	}
	var from []store.Position
	for partition := range heads {
		from = append(from, store.NewPosition(partition, 0))
	}
	return from, nil
}

// follow prints events as they are committed, until ctx ends. The end of ctx is no error.
func (a *app) follow(ctx context.Context, engine *perdure.Engine, from []store.Position, asJSON bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var mu sync.Mutex // guards the output
	for _, after := range from {
		wg.Go(func() {
			for event, err := range engine.Events(ctx, store.Query{After: after}) {
				mu.Lock()
				switch {
				case errors.Is(err, stream.ErrLagged), errors.Is(err, stream.ErrDeleted):
					a.err.printf("%v\n", err) // only a notice: the stream goes on
					err = nil
				case err == nil:
					err = errors.Join(a.printEvent(event, asJSON), a.out.flush())
				}
				mu.Unlock()
				if err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (a *app) printEvents(events iter.Seq2[*store.Event, error], asJSON bool) error {
	for event, err := range events {
		if err != nil {
			return err
		}
		if err := a.printEvent(event, asJSON); err != nil {
			return err
		}
	}
	return nil
}
