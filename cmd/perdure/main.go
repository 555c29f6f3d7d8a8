// Perdure maintains logs: it verifies, copies, backs up and compares them. For the list of
// commands, run
//
//	perdure help
//
// A URI names a log; see package store/open. The exit code is 0 for success, 1 if the command has
// failed, 2 if its arguments are wrong, and 3 if a log is damaged.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/progress"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/open"
)

// Exit codes.
const (
	exitFine    = 0
	exitFailed  = 1
	exitUsage   = 2
	exitDamaged = 3
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second interrupt ends the process at once
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run runs the program with the arguments of the command line and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	a := &app{out: stdout, err: stderr}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		err = a.failed
	}
	if err == nil {
		return exitFine
	}
	a.tell("perdure: %v\n", err)
	switch {
	case !a.begun:
		a.tell("See perdure help.\n")
		return exitUsage
	case errors.Is(err, store.ErrInUse):
		a.tell("Another process has the log open; end it first, or let it make the backup itself.\n")
	case errors.Is(err, store.ErrCorrupt):
		return exitDamaged
	}
	return exitFailed
}

// An app has the state that the commands share.
type app struct {
	out, err io.Writer
	quiet    bool
	interval time.Duration
	begun    bool  // the arguments were right
	failed   error // the first error of writing to out
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "perdure",
		Short: "Verify, copy, back up and compare logs",
		Long: `Verify, copy, back up and compare logs.

A log is named by a URI: FILE or bbolt:FILE, pebble:DIRECTORY, or postgres://…; with
?salvage=true a broken bbolt or Pebble log is read as far as it can be. No command but
copy, salvage, compact and "readers remove" writes to a log, and none creates one that it should
read.

The exit code is 0 for success, 1 if the command has failed, 2 if its arguments are
wrong, and 3 if a log is damaged.`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentPreRun = func(*cobra.Command, []string) { a.begun = true }
	root.PersistentFlags().BoolVarP(&a.quiet, "quiet", "q", false, "do not print the progress")
	root.PersistentFlags().DurationVar(&a.interval, "interval", progress.IntervalDefault, "how often to print the progress, if there is no terminal")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(a.verifyCommand(), a.copyCommand(), a.salvageCommand(), a.backupCommand(), a.compactCommand(), a.digestCommand(), a.statsCommand(), a.readersCommand())
	return root
}

// print prints a line of the requested output.
func (a *app) print(format string, args ...any) {
	if _, err := fmt.Fprintf(a.out, format, args...); err != nil && a.failed == nil {
		a.failed = fmt.Errorf("print: %w", err)
	}
}

// tell prints a message to stderr.
func (a *app) tell(format string, args ...any) {
	_, _ = fmt.Fprintf(a.err, format, args...) // there is no other place to report it
}

// reading opens an existing log and closes it after do. do gets a callback for its progress.
func (a *app) reading(ctx context.Context, uri string, do func(store.Log, func(admin.Progress)) error) (failure error) {
	log, err := open.ForReading(ctx, uri)
	if err != nil {
		return err
	}
	defer func() { failure = errors.Join(failure, log.Close()) }()
	m, stop := a.startProgress()
	defer stop()
	return do(log, m.set)
}
