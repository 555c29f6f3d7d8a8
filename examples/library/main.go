// The library is a lending library on Perdure. Read it in this order:
//
//   - library/ has the rules. Books are event-sourced, readers are a durable-state kind. A book
//     sends its reader a message with every loan, sets a timer, and asks for a reminder.
//   - readmodel/ keeps tables of SQL from the events, for questions about all books.
//   - notice/ performs the reminders: the only effect outside of the library.
//   - ledger/ imports a CSV file of loans, exactly once, however often it is killed.
//   - this package opens all of them in one engine, and is the command line.
//
// Without arguments the program imports a small ledger of its own and shows the result. A second
// run shows that everything is still there. For the list of commands, run
//
//	go run ./examples/library help
//
// The program keeps its log in a bbolt file or in memory. Built with all stores, it also knows
// pebble:DIRECTORY and postgres://…:
//
//	go run -tags allstores ./examples/library --store pebble:library
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/examples/library/library"
	"github.com/perdure/perdure/examples/library/notice"
	"github.com/perdure/perdure/examples/library/readmodel"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
)

// memoryMax is the memory limit of the Go runtime, unless GOMEMLIMIT sets another one. An import
// makes much garbage, but keeps little memory in use: near the limit the runtime collects garbage
// more often, instead of letting the heap grow to twice the memory in use.
const memoryMax = 208 << 20

func main() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryMax)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second interrupt ends the process at once
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "library:", err) // there is no other place to report it
		os.Exit(1)
	}
}

// run runs the program with the arguments of the command line.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	a := &app{out: bufio.NewWriter(stdout), err: stderr}
	root := &cobra.Command{
		Use:   "library",
		Short: "A lending library whose books are durable entities",
		Long: `A lending library whose books are durable entities.

With no command it imports a small ledger of its own. It keeps what happened in
library.db, and reminders of overdue loans in notices.txt. Run it twice: the
second time, everything is still there, and no reminder is written again.`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return a.demo(cmd.Context()) },
	}
	root.PersistentFlags().StringVar(&a.store, "store", "bbolt:library.db", "where the log is kept, as a `URI`: bbolt:FILE, memory:; see the package for others")
	root.PersistentFlags().StringVar(&a.notices, "notices", "", "where reminders are written, as a `FILE`; without it, in notices.txt beside the log")
	root.AddCommand(a.importCommand(), a.showCommand(), a.listCommand(), a.reportCommand())
	root.SetArgs(args)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.CompletionOptions.HiddenDefaultCmd = true
	return errors.Join(root.ExecuteContext(ctx), a.out.Flush())
}

// An app has the state that the commands share.
type app struct {
	out     *bufio.Writer
	err     io.Writer
	store   string // the URI of the log
	notices string // from the flag --notices
}

// A desk is an open library.
type desk struct {
	engine  *perdure.Engine
	notices *notice.File
	model   *readmodel.Model
}

// retry tries to write a reminder for less than a second. Then the reminder is parked, and the next
// start of the program tries again.
var retry = perdure.RetryPolicy{MaxAttempts: 5, MinBackoff: 50 * time.Millisecond, MaxBackoff: 400 * time.Millisecond}

// closeMax bounds the wait for commands in progress after an interrupt.
const closeMax = 10 * time.Second

// open opens the library, calls do, and closes the library. The engine runs the books, the readers,
// the effect that writes reminders, and the read model.
func (a *app) open(ctx context.Context, do func(*desk) error) (failure error) {
	log, err := store.Open(ctx, a.store, drivers()...)
	if err != nil {
		return err
	}
	defer func() { failure = errors.Join(failure, log.Close()) }()
	d := &desk{}
	if d.notices, err = notice.Open(a.noticesFile()); err != nil {
		return err
	}
	defer func() { failure = errors.Join(failure, d.notices.Close()) }()
	if d.model, err = readmodel.Open(ctx, a.modelFile()); err != nil {
		return err
	}
	defer func() { failure = errors.Join(failure, d.model.Close()) }()
	d.engine, err = perdure.Open(ctx, perdure.Config{
		Store:    log,
		Kinds:    []perdure.AnyKind{library.Books, library.Readers},
		Effects:  []perdure.EffectRule{perdure.Perform(d.notices.Write, retry)},
		Services: []perdure.Service{projection.Service(d.model.Runner)},
	})
	if err != nil {
		return err
	}
	_, err = d.engine.UnparkWhere(ctx, func(*store.Message) bool { return true })
	if err == nil {
		err = do(d)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeMax)
	defer cancel()
	return errors.Join(err, d.engine.Close(ctx))
}

// look is like open, but waits for work that is due, and creates no log.
func (a *app) look(ctx context.Context, do func(*desk) error) error {
	if file := fileOf(a.store); file != "" {
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("there is no library here yet: %s does not exist (run the program without a command, or import a ledger, to make one)", file)
		}
	}
	return a.open(ctx, func(d *desk) error {
		if err := a.settle(ctx, d); err != nil {
			return err
		}
		return do(d)
	})
}

// noticesFile returns the name of the file of notices: the one from the flag, or one beside the
// log. If the log is not in a file, the notices are not kept.
func (a *app) noticesFile() string {
	if file := fileOf(a.store); a.notices == "" && file != "" {
		return filepath.Join(filepath.Dir(file), "notices.txt")
	}
	return a.notices
}

// modelFile returns the name of the file of the read model, beside the log, or "" for one in
// memory.
func (a *app) modelFile() string {
	file := fileOf(a.store)
	if file == "" {
		return ""
	}
	file = filepath.Clean(file) // the log may be a directory
	return strings.TrimSuffix(file, filepath.Ext(file)) + ".read.db"
}

// fileOf returns the file or directory that a URI names, or "" if it names none. For a wrong URI it
// returns "" too; opening the URI reports the error.
func fileOf(uri string) string {
	u, err := store.ParseURI(uri)
	if err != nil || u.Scheme() != "bbolt" && u.Scheme() != "pebble" {
		return ""
	}
	return u.Path()
}

// printf prints text. If the output fails, its Flush returns the error.
func (a *app) printf(format string, args ...any) { _, _ = fmt.Fprintf(a.out, format, args...) }

// table prints rows of cells in columns, after a title.
func (a *app) table(title string, rows ...[]string) {
	a.printf("\n%s\n\n", title)
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for _, cells := range rows {
		_, _ = fmt.Fprintf(w, "  %s\n", strings.TrimRight(strings.Join(cells, "\t"), "\t")) // as in printf
	}
	_ = w.Flush() // as in printf
}
