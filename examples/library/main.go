// The library is a lending library on Perdure: its books and readers are durable
// entities, and a ledger of loans is run through them.
//
// With no argument it runs a small ledger of its own and keeps what happened in
// library.db, and reminders of overdue loans in notices.txt; the second run shows
// that everything is still there. The other commands are listed by
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

// memoryMax is how much memory the Go runtime takes before it collects garbage more
// often, unless GOMEMLIMIT says otherwise. An import leaves much garbage, and much less
// that is in use.
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
		_, _ = fmt.Fprintln(os.Stderr, "library:", err) // there is nobody else to tell
		os.Exit(1)
	}
}

// run runs the program with arguments as they are typed.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	a := &app{out: newPrinter(bufio.NewWriter(stdout)), err: newPrinter(stderr)}
	root := &cobra.Command{
		Use:   "library",
		Short: "A lending library whose books are durable entities",
		Long: `A lending library whose books are durable entities.

With no command it runs a small ledger of its own and keeps what happened in
library.db, and reminders of overdue loans in notices.txt. Run it twice: the
second time, everything is still there, and nobody is reminded again.`,
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

// An app is what the commands share.
type app struct {
	out, err    *printer
	store       string // URI
	noticesName string // as it was given
	notices     *notice.File
	models      *readmodel.Model
	beside      string             // the projection to build anew beside the one that readers use
	next        *projection.Runner // and its runner
}

// closeMax bounds the wait for commands in progress after an interrupt.
const closeMax = 10 * time.Second

// A reminder that cannot be written is tried again so often, and then parked;
// that is less than a second.
const (
	attemptsMax = 5
	backoffMin  = 50 * time.Millisecond
	backoffMax  = 400 * time.Millisecond
)

// withEngine opens the log, runs books, readers and read models on it for as
// long as do takes, and closes them. All that do was told is durable before; what is in
// progress when it returns is waited for.
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
			perdure.Perform(a.notices.Write, perdure.MaxAttempts(attemptsMax), perdure.Backoff(backoffMin, backoffMax)),
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

// errNoLibrary says that there is nothing to look at yet.
var errNoLibrary = errors.New("there is no library here yet")

// withLibrary is like withEngine but does not make a new file: a look at what
// is not there should leave no trace.
func (a *app) withLibrary(ctx context.Context, do func(*perdure.Engine) error) error {
	if file := fileOf(a.store); file != "" {
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%w: %s does not exist; run the program without a command, or import, to make one", errNoLibrary, file)
		}
	}
	return a.withEngine(ctx, do)
}

// noticesFile returns the file of notices: the one that was given, or the one
// beside the log. A log that is in no file has them in memory.
func (a *app) noticesFile() string {
	if a.noticesName != "" {
		return a.noticesName
	}
	if file := fileOf(a.store); file != "" {
		return filepath.Join(filepath.Dir(file), "notices.txt")
	}
	return ""
}

// modelFile returns the file of the read models, beside that of the log. A log
// that is in no file has them in memory.
func (a *app) modelFile() string {
	file := fileOf(a.store)
	if file == "" {
		return ""
	}
	file = filepath.Clean(file) // which may be a directory
	return strings.TrimSuffix(file, filepath.Ext(file)) + ".read.db"
}

// bookKey names a book in the log.
func bookKey(id string) store.Key { return store.Key{Kind: library.Books.Name(), ID: id} }

// fileOf returns the file or directory that a URI names, or nothing if it names
// none. A URI that is wrong names none, and is refused when it is opened.
func fileOf(uri string) string {
	u, err := store.ParseURI(uri)
	if err != nil || u.Scheme() != "bbolt" && u.Scheme() != "pebble" {
		return ""
	}
	return u.Path()
}
