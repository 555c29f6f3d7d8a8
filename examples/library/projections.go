package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/examples/library/readmodel"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
)

func (a *app) projectionsCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "projections",
		Short: "Show how far the tables of the reports have come",
		Long: `Projections shows the projections that keep the tables of the reports: the version
that reports use, what each is doing, where it is in the log, how many books are
parked, and how many dead letters there are.

A book is parked in a projection when one of its events cannot be handled there:
its later events wait with it, and all other books go on. It may be retried, its
event may be skipped, or all events that it misses may be dropped. What is skipped
or dropped is missing in the reports from then on, and leaves one dead letter.

Rebuild builds a projection again, from the first event, beside the one that reports
use. When the new one has caught up, reports use it, and the old one is removed, with
its parked books and dead letters.`,
		Example: "  library projections\n  library projections rebuild months\n  library projections retry books dracula",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withProjections(cmd.Context(), asJSON, func(*perdure.Engine) error { return nil })
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print each projection as a line of JSON")
	parked := func(use, short string, do func(*projection.Runner, context.Context, store.Key) error) *cobra.Command {
		return &cobra.Command{
			Use: use + " PROJECTION BOOK", Short: short, Args: cobra.ExactArgs(2),
			RunE: func(cmd *cobra.Command, args []string) error {
				if err := checkProjection(args[0]); err != nil {
					return err
				}
				return a.withProjections(cmd.Context(), false, func(*perdure.Engine) error {
					return do(a.models.Runners()[args[0]], cmd.Context(), bookKey(args[1]))
				})
			},
		}
	}
	c.AddCommand(
		parked("retry", "Hand a parked book the events that it misses", (*projection.Runner).Retry),
		parked("skip", "Leave out the event that a book is parked at, and go on with the next", (*projection.Runner).SkipEvent),
		parked("drop", "Leave out all events that a parked book misses", (*projection.Runner).DropEvents),
		a.rebuildCommand(),
	)
	return c
}

func checkProjection(name string) error {
	if !slices.Contains(readmodel.Names, name) {
		return fmt.Errorf("there is no projection %q, only %s", name, strings.Join(readmodel.Names, ", "))
	}
	return nil
}

// withProjections lets the projections catch up, calls do, and prints their status.
func (a *app) withProjections(ctx context.Context, asJSON bool, do func(*perdure.Engine) error) error {
	return a.withLibrary(ctx, func(engine *perdure.Engine) error {
		if err := a.catchUp(ctx, engine); err != nil {
			return err
		}
		if err := do(engine); err != nil {
			return err
		}
		return a.printProjections(ctx, asJSON)
	})
}

func (a *app) rebuildCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rebuild PROJECTION", Short: "Build a projection again beside the one that reports use", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkProjection(args[0]); err != nil {
				return err
			}
			ctx := cmd.Context()
			a.beside = args[0]
			return a.withProjections(ctx, false, func(*perdure.Engine) error {
				if err := a.next.Switch(ctx); err != nil {
					return err
				}
				if err := a.models.Runners()[args[0]].Remove(ctx); err != nil {
					return err
				}
				a.models.Runners()[args[0]], a.next = a.next, nil
				return nil
			})
		},
	}
}

func (a *app) printProjections(ctx context.Context, asJSON bool) error {
	t := &table{right: []bool{false, true, false, true, true, true, true, true}}
	t.row("projection", "version", "state", "position", "head", "lag", "parked", "dead letters")
	for _, r := range a.runners() {
		s, err := r.Status(ctx)
		if err != nil {
			return err
		}
		var positions, heads []string
		for _, p := range s.Partitions {
			positions, heads = append(positions, p.Position.String()), append(heads, p.Head.String())
		}
		if asJSON {
			if err := json.NewEncoder(a.out.w).Encode(struct {
				Name     string   `json:"name"`
				Version  int      `json:"version"`
				State    string   `json:"state"`
				Position []string `json:"position"`
				Head     []string `json:"head"`
				Lag      uint64   `json:"lag"`
				Parked   int      `json:"parked"`
				Dead     int      `json:"dead"`
			}{s.Name, s.Version, string(s.State), positions, heads, s.Lag, s.Parked, s.Dead}); err != nil {
				return err
			}
			continue
		}
		t.row(s.Name, fmt.Sprint(s.Version), string(s.State), strings.Join(positions, " "), strings.Join(heads, " "),
			fmt.Sprint(s.Lag), count(s.Parked), count(s.Dead))
	}
	if asJSON {
		return nil
	}
	t.print(a.out, "")
	return a.printParkedBooks(ctx)
}

// printParkedBooks prints the parked books, and the reasons.
func (a *app) printParkedBooks(ctx context.Context) error {
	t := &table{}
	for _, r := range a.runners() {
		for p, err := range r.Parked(ctx) {
			if err != nil {
				return err
			}
			t.row(r.Name(), p.Key.ID, fmt.Sprintf("from version %d on", p.Version), p.Error)
		}
	}
	if len(t.rows) > 0 {
		a.out.printf("\nParked\n\n")
		t.print(a.out, "  ")
	}
	return nil
}
