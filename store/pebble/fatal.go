package pebble

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"

	"github.com/cockroachdb/pebble/v2"
)

// A logger is what Pebble logs to. It passes all on to a [slog.Logger].
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

// Fatalf implements [pebble.Logger]. Pebble's own ends the process, and Pebble
// relies on Fatalf not to return: what it does next would be wrong. So the log
// is broken, and the goroutine ends or stays: a reader's by a panic that
// [Log.guard] turns into an error, any other by waiting for ever, see [pit].
func (g logger) Fatalf(format string, args ...any) {
	err := fatal(fmt.Sprintf(format, args...))
	g.log.breakDown(err)
	if guarded() {
		panic(err)
	}
	select {}
}

// fatal is an error after which Pebble cannot go on.
type fatal string

// Error implements error.
func (f fatal) Error() string { return string(f) }

// framesMax bounds how much of a stack guarded looks at.
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

// listener returns what Pebble tells about its work in the background.
func (l *Log) listener() *pebble.EventListener {
	return &pebble.EventListener{
		// Damage that a compaction meets hurts those who read it, and they are
		// told; the others go on. Any other error means that the disk does not
		// take what it is given. Pebble would try again at once and for ever.
		BackgroundError: func(err error) {
			if pebble.IsCorruptionError(err) {
				l.logger.Error("damage met by a compaction", "dir", l.path, "error", err)
				return
			}
			l.breakDown(fmt.Errorf("background work: %w", err))
			runtime.Goexit() // its locks are given back by defer
		},
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			l.logger.Error("damage", "dir", l.path, "file", info.Path, "error", info.Details)
		},
		FlushEnd: func(pebble.FlushInfo) { l.flushed.Store(true) },
	}
}
