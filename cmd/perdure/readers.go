package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/progress"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/open"
	"github.com/perdure/perdure/stream"
)

func (a *app) readersCommand() *cobra.Command {
	yes, instance := false, ""
	cmd := &cobra.Command{
		Use:   "readers URI [remove NAME]",
		Short: "List the readers that keep a log from deleting events, and remove one",
		Long: `List the readers that keep a log from deleting events, and remove one.

Subscriptions, projections and live readers have checkpoints in the log; no event at
or above the lowest checkpoint of a partition is deleted. The list has, for each reader,
its positions, the number of positions behind the head, and the time of its last move.
A reader that has read everything does not move, so look at both.

Remove deletes all checkpoints of a reader that does not come back: a projection
whose code is gone, or a subscription that was given up. With --instance it removes
one replica, by its id. After that, events that the reader has yet to read may be
deleted. A reader that still runs gets an error; a subscription that is opened again
under the name begins as a new one. Without --yes the command only prints its plan.`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 1 && (yes || instance != ""):
				return errors.New("--yes and --instance go with remove NAME")
			case len(args) == 1, len(args) == 3 && args[1] == "remove":
				return nil
			}
			return fmt.Errorf("got %q, want a URI, or a URI, the word remove and the name of a reader", args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 3 {
				return a.removeReader(cmd.Context(), args[0], args[2], instance, yes)
			}
			return a.reading(cmd.Context(), args[0], func(log store.Log, _ func(admin.Progress)) error {
				return a.listReaders(cmd.Context(), log)
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "remove it, instead of printing the plan")
	cmd.Flags().StringVar(&instance, "instance", "", "remove only the instance with this id")
	return cmd
}

func (a *app) listReaders(ctx context.Context, log store.Log) error {
	all, heads, err := readersOf(ctx, log)
	if err != nil {
		return err
	}
	for i := range all {
		a.printReader(&all[i], heads)
	}
	if len(all) == 0 {
		a.print("no reader\n")
	}
	return nil
}

func readersOf(ctx context.Context, log store.Log) ([]stream.Reader, []store.Position, error) {
	heads, err := log.Heads(ctx)
	if err != nil {
		return nil, nil, err
	}
	all, err := stream.NewReaders(log).List(ctx)
	return all, heads, err
}

func (a *app) printReader(r *stream.Reader, heads []store.Position) {
	a.print("%s\n", r.Name)
	a.print("  moved     %s, %s ago\n", r.Moved.Format(time.RFC3339), age(r.Moved))
	for _, p := range r.Positions {
		a.print("  at        %v, %s behind\n", p, behind(p, heads))
	}
	for _, in := range r.Instances {
		a.print("  instance  %s at %s, by %s, moved %s ago\n", in.ID, positions(in.Positions), in.Process, age(in.Moved))
	}
}

// behind returns a text with the number of positions above p.
func behind(p store.Position, heads []store.Position) string {
	if p.Partition() >= len(heads) {
		return fmt.Sprintf("in a partition that the log does not have, of %d;", len(heads))
	}
	head := heads[p.Partition()]
	if head < p {
		return fmt.Sprintf("above the head %v; 0", head)
	}
	return progress.Count(int64(head - p))
}

func age(t time.Time) time.Duration { return max(0, time.Since(t)).Round(time.Second) }

func positions(all []store.Position) string {
	var s []string
	for _, p := range all {
		s = append(s, p.String())
	}
	return strings.Join(s, " ")
}

// removeReader removes a reader of an existing log, or without yes prints the reader that it
// would remove.
func (a *app) removeReader(ctx context.Context, uri, name, instance string, yes bool) error {
	// It creates no log, and writes nothing without --yes.
	err := a.reading(ctx, uri, func(log store.Log, _ func(admin.Progress)) error {
		return a.showRemoval(ctx, log, name, instance)
	})
	if err != nil {
		return err
	}
	if !yes {
		return errors.New("nothing is removed; say --yes to remove it")
	}
	log, err := open.Open(ctx, uri)
	if err != nil {
		return err
	}
	readers := stream.NewReaders(log)
	if instance != "" {
		err = readers.RemoveInstance(ctx, name, instance)
	} else {
		err = readers.Remove(ctx, name)
	}
	if err = errors.Join(err, log.Close()); err == nil {
		a.print("removed\n")
	}
	return err
}

// showRemoval prints the reader to remove. It returns an error if there is no such reader.
func (a *app) showRemoval(ctx context.Context, log store.Log, name, instance string) error {
	all, heads, err := readersOf(ctx, log)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(r stream.Reader) bool { return r.Name == name })
	if i < 0 {
		return fmt.Errorf("reader %q: %w; perdure readers lists those that there are", name, store.ErrNotFound)
	}
	r := all[i]
	if instance != "" {
		r.Instances = slices.DeleteFunc(r.Instances, func(in stream.Instance) bool { return in.ID != instance })
		if len(r.Instances) == 0 {
			return fmt.Errorf("instance %q of reader %q: %w", instance, name, store.ErrNotFound)
		}
	}
	a.printReader(&r, heads)
	return nil
}
