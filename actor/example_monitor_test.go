package actor_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/perdure/perdure/actor"
)

// withoutTime drops the attributes that change from run to run.
func withoutTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey || a.Key == "stack" {
		return slog.Attr{}
	}
	return a
}

// A monitor subscribes to the events of the package and logs them. Each one
// knows its level and its text.
func ExampleSubscribe() {
	ctx := context.Background()
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: withoutTime}))
	s := actor.NewSystem(actor.Config{})
	events := actor.Subscribe[actor.Event](s, 100)
	r, err := actor.Spawn(s, "ada", actor.Try[string](func(_ *actor.Context[string], m string) error {
		return errors.New("cannot " + m)
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := r.Tell("dance"); err != nil {
		fmt.Println(err)
	}
	if err := s.Shutdown(ctx); err != nil {
		fmt.Println(err)
	}
	events.Close()
	for {
		e, err := events.Next(ctx)
		if errors.Is(err, actor.ErrUnsubscribed) {
			break
		}
		if err != nil { // events may have been missed
			logger.Warn("events", "error", err)
			continue
		}
		actor.Log(ctx, logger, e)
	}
	// Output:
	// level=DEBUG msg="actor started" event.path=/user/ada
	// level=ERROR msg="actor failed" event.actor=ada event.path=/user/ada event.value="cannot dance" event.goexit=false
	// level=WARN msg="actor stopped" event.path=/user/ada event.reason="actor \"ada\" failed: cannot dance"
}
