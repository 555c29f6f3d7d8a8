package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/store"
)

func (a *app) parkedCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "parked",
		Short: "List what could not be done, to be retried or dropped",
		Long: `Parked lists the messages that could not be delivered, such as reminders whose
file cannot be written: those that have failed too often, and those for which no
further attempt would help. They stay in the log, and stop nothing else, until
they are retried or dropped by their number.`,
		Example: `  library parked
  library parked retry 17 --notices elsewhere.txt
  library parked drop 17 18`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			return a.withLibrary(ctx, func(engine *perdure.Engine) error {
				if err := a.settle(ctx, engine); err != nil {
					return err
				}
				return a.printParked(ctx, engine, asJSON)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print each message as a line of JSON")
	c.AddCommand(
		a.unparkCommand("retry NUMBER...", "Deliver parked messages again", func(ctx context.Context, e *perdure.Engine, n uint64) error {
			return e.Unpark(ctx, n, nil)
		}),
		a.unparkCommand("drop NUMBER...", "Remove parked messages for good", func(ctx context.Context, e *perdure.Engine, n uint64) error {
			return e.Drop(ctx, n)
		}),
	)
	return c
}

// unparkCommand returns a command that calls do on parked messages, and then lists the messages
// that are still parked.
func (a *app) unparkCommand(use, short string, do func(context.Context, *perdure.Engine, uint64) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			var numbers []uint64
			for _, arg := range args {
				n, err := strconv.ParseUint(arg, 10, 64)
				if err != nil {
					return fmt.Errorf("%q is not the number of a message", arg)
				}
				numbers = append(numbers, n)
			}
			return a.withLibrary(ctx, func(engine *perdure.Engine) error {
				for _, n := range numbers {
					if err := do(ctx, engine, n); err != nil {
						return err
					}
				}
				if err := a.settle(ctx, engine); err != nil {
					return err
				}
				return a.printParked(ctx, engine, false)
			})
		},
	}
}

func (a *app) printParked(ctx context.Context, engine *perdure.Engine, asJSON bool) error {
	t := &table{right: []bool{true, false, false, true}}
	t.row("number", "message", "from", "attempts", "why")
	parked := 0
	for m, err := range engine.Parked(ctx) {
		if err != nil {
			return err
		}
		parked++
		if asJSON {
			if err := a.printParkedJSON(m); err != nil {
				return err
			}
			continue
		}
		t.row(fmt.Sprint(m.Sequence), m.Type[strings.LastIndexByte(m.Type, '.')+1:], m.Source.String(),
			fmt.Sprint(m.Attempts), m.LastError)
		if len(t.rows) == listRows {
			t.print(a.out, "")
		}
	}
	switch {
	case asJSON:
	case parked == 0:
		a.out.printf("Nothing is parked.\n")
	default:
		t.print(a.out, "")
	}
	return nil
}

func (a *app) printParkedJSON(m *store.Message) error {
	payload, err := payloadJSON(m.Type, m.Payload)
	if err != nil {
		return fmt.Errorf("message %d of %v: %w", m.Sequence, m.Source, err)
	}
	target := ""
	if !m.Target.IsZero() {
		target = m.Target.String()
	}
	return json.NewEncoder(a.out.w).Encode(struct {
		Number   uint64          `json:"number"`
		ID       string          `json:"id"`
		Type     string          `json:"type"`
		Source   string          `json:"source"`
		Target   string          `json:"target,omitempty"`
		Time     string          `json:"time"`
		Attempts uint32          `json:"attempts"`
		Error    string          `json:"error"`
		Payload  json.RawMessage `json:"payload"`
	}{
		m.Sequence, m.ID.String(), m.Type, m.Source.String(), target, stamp(m.Time), m.Attempts, m.LastError, payload,
	})
}
