// The library is a lending library on Perdure. Its books and readers are durable entities, and it
// imports a ledger of loans into them.
//
// Without arguments it imports a small ledger of its own. It keeps its log in library.db, and
// reminders of overdue loans in notices.txt; a second run shows that everything is still there.
// For the list of commands, run
//
//	go run ./examples/library help
//
// The program keeps its log in a bbolt file or in memory. Built with all stores, it also
// knows pebble:DIRECTORY and postgres://…:
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
	"time"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/examples/library/library"
	"github.com/perdure/perdure/examples/library/notice"
	"github.com/perdure/perdure/examples/library/readmodel"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
)

// memoryMax is the memory limit of the Go runtime, unless GOMEMLIMIT sets another one: near it
// the runtime collects garbage more often. An import makes much garbage, but keeps little memory
// in use.
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
	a := &app{out: newPrinter(bufio.NewWriter(stdout)), err: newPrinter(stderr)}
	root := &cobra.Command{
		Use:   "library",
		Short: "A lending library whose books are durable entities",
		Long: `A lending library whose books are durable entities.

With no command it runs a small ledger of its own and keeps what happened in
library.db, and reminders of overdue loans in notices.txt. Run it twice: the
second time, everything is still there, and no reminder is written again.`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return a.demo(cmd.Context()) },
	}
	root.PersistentFlags().StringVar(&a.store, "store", "bbolt:library.db", "where the log is kept, as a `URI`: bbolt:FILE, memory:; see the package for others")
	root.PersistentFlags().StringVar(&a.noticesName, "notices", "", "where reminders are written, as a `FILE`; without it, in notices.txt beside the log")
	root.AddCommand(
		a.importCommand(), a.showCommand(), a.historyCommand(), a.listCommand(), a.eventsCommand(),
		a.readerCommand(), a.noticesCommand(), a.parkedCommand(), a.reportCommand(), a.projectionsCommand(),
	)
	root.SetArgs(args)
	root.SetOut(a.out.w)
	root.SetErr(a.err.w)
	root.CompletionOptions.HiddenDefaultCmd = true
	return errors.Join(root.ExecuteContext(ctx), a.out.flush())
}

// An app has the state that the commands share.
type app struct {
	out, err    *printer
	store       string // the URI of the log
	noticesName string // from the flag --notices
	notices     *notice.File
	models      *readmodel.Model
	beside      string             // name of the projection to rebuild beside the version in use
	next        *projection.Runner // runner of the new version
}

// closeMax bounds the wait for commands in progress after an interrupt.
const closeMax = 10 * time.Second

// The attempts for a reminder that cannot be written, and the pauses between them, which take
// less than a second in all. Then the reminder is parked.
const (
	attemptsMax = 5
	backoffMin  = 50 * time.Millisecond
	backoffMax  = 400 * time.Millisecond
)

// withEngine opens the log, runs books, readers and read models on it, calls do, and closes them.
// Every answer that do gets is durable by then. After do has returned, withEngine waits for the
// work in progress.
func (a *app) withEngine(ctx context.Context, do func(*perdure.Engine) error) (failure error) {
	log, err := store.Open(ctx, a.store, drivers()...)
	if err != nil {
		return err
	}
	defer func() { failure = errors.Join(failure, log.Close()) }()
	a.notices = notice.New(a.noticesFile())
	defer func() { failure = errors.Join(failure, a.notices.Close()) }()
	if a.models, err = readmodel.Open(ctx, a.modelFile()); err != nil {
		return err
	}
	defer func() { failure = errors.Join(failure, a.models.Close()) }()
	if a.beside != "" {
		a.next = a.models.Next(a.beside)
	}
	engine, err := perdure.Open(ctx, perdure.Config{
		Store: log, Services: []perdure.Service{projection.Service(a.runners()...)},
		Kinds: []perdure.AnyKind{library.Books, library.Readers},
		Effects: []perdure.EffectRule{
			perdure.Perform(a.notices.Write, perdure.RetryPolicy{MaxAttempts: attemptsMax, MinBackoff: backoffMin, MaxBackoff: backoffMax}),
		},
	})
	if err != nil {
		return err
	}
	err = do(engine)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeMax)
	defer cancel()
	return errors.Join(err, engine.Close(ctx))
}

// errNoLibrary says that there is no library to look at yet.
var errNoLibrary = errors.New("there is no library here yet")

// withLibrary is like withEngine, but does not create a log: a command that only looks must not
// leave a new file.
func (a *app) withLibrary(ctx context.Context, do func(*perdure.Engine) error) error {
	if file := fileOf(a.store); file != "" {
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%w: %s does not exist; run the program without a command, or import, to make one", errNoLibrary, file)
		}
	}
	return a.withEngine(ctx, do)
}

// noticesFile returns the name of the file of notices: the one from the flag, or the one beside
// the log. If the log is not in a file, the notices are in memory.
func (a *app) noticesFile() string {
	if a.noticesName != "" {
		return a.noticesName
	}
	if file := fileOf(a.store); file != "" {
		return filepath.Join(filepath.Dir(file), "notices.txt")
	}
	return ""
}

// modelFile returns the name of the file of the read models, beside the log. If the log is not in
// a file, the read models are in memory.
func (a *app) modelFile() string {
	file := fileOf(a.store)
	if file == "" {
		return ""
	}
	file = filepath.Clean(file) // the log may be a directory
	return strings.TrimSuffix(file, filepath.Ext(file)) + ".read.db"
}

// bookKey returns the key of a book in the log.
func bookKey(id string) store.Key { return store.Key{Kind: library.Books.Name(), ID: id} }

// fileOf returns the file or directory that a URI names, or "" if it names none. For a wrong URI
// it returns "" too; opening the URI reports the error.
func fileOf(uri string) string {
	u, err := store.ParseURI(uri)
	if err != nil || u.Scheme() != "bbolt" && u.Scheme() != "pebble" {
		return ""
	}
	return u.Path()
}
