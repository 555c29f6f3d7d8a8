package pebble

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"

	"github.com/cockroachdb/pebble/v2"
)

// A logger passes the messages of Pebble to a [slog.Logger].
type logger struct{ log *Log }

var _ pebble.Logger = logger{}

// Infof implements [pebble.Logger].
func (g logger) Infof(format string, args ...any) {
	if l := g.log.logger; l.Enabled(context.Background(), slog.LevelDebug) {
		l.Debug("pebble", "dir", g.log.path, "text", fmt.Sprintf(format, args...))
	}
}

// Errorf implements [pebble.Logger].
func (g logger) Errorf(format string, args ...any) {
	g.log.logger.Error("pebble", "dir", g.log.path, "text", fmt.Sprintf(format, args...))
}

// Fatalf implements [pebble.Logger]. Pebble's default ends the process, and Pebble relies on
// Fatalf never to return: its next steps would be wrong. So Fatalf marks the log as broken
// and stops the goroutine. On the goroutine of a read or a commit it panics, and [Log.guard]
// turns the panic into an error. Any other goroutine it blocks forever, see [haltFS].
func (g logger) Fatalf(format string, args ...any) {
	err := fatalError(fmt.Sprintf(format, args...))
	g.log.markBroken(err)
	if guarded() {
		panic(err)
	}
	select {}
}

// fatalError is an error after which Pebble cannot continue.
type fatalError string

// Error implements error.
func (f fatalError) Error() string { return string(f) }

// framesMax bounds the stack frames that guarded examines.
const framesMax = 256

// guarded reports whether [Log.guard] is on the stack.
func guarded() bool {
	pc := make([]uintptr, framesMax)
	frames := runtime.CallersFrames(pc[:runtime.Callers(1, pc)])
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, "store/pebble.(*Log).guard") {
			return true
		}
		if !more {
			return false
		}
	}
}

// listener returns the functions that Pebble calls about its background work.
func (l *Log) listener() *pebble.EventListener {
	return &pebble.EventListener{
		// Damage found by a compaction is an error for the readers of that data, and all
		// other reads still work. Any other error means that the disk refuses writes. Pebble
		// would then retry at once, without an end.
		BackgroundError: func(err error) {
			if pebble.IsCorruptionError(err) {
				l.logger.Error("damage met by a compaction", "dir", l.path, "error", err)
				return
			}
			l.markBroken(fmt.Errorf("background work: %w", err))
			runtime.Goexit() // deferred functions release Pebble's locks
		},
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			l.logger.Error("damage", "dir", l.path, "file", info.Path, "error", info.Details)
		},
		FlushEnd: func(pebble.FlushInfo) { l.flushed.Store(true) },
	}
}
