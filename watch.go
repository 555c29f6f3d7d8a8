package perdure

import (
	"errors"
	"time"

	"github.com/perdure/perdure/internal/guard"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/stream"
)

// follow makes the queue look for messages of other engines: when the log reports a change, and
// from time to time. Other processes run in real time, whatever the clock of the engine is, so
// follow uses real time. It asks the log for the next change before the queue looks. A commit
// between the two is then either reported or found.
func (d *dispatcher) follow() {
	w, _ := d.engine.log.(store.Watcher)
	look, pause := time.NewTimer(0), time.NewTimer(0)
	defer look.Stop()
	defer pause.Stop()
	var asked <-chan notice // waits for the log's answer; nil if no request is open
	told := false
	for {
		var changed <-chan struct{}
		every := d.engine.config.Poll
		if w != nil {
			if asked == nil {
				asked = d.askLog(w)
			}
			pause.Reset(watchPause)
			select {
			case n := <-asked:
				asked, changed = nil, n.changed
				if n.err != nil && !told {
					told = true
					d.engine.config.Logger.Error("store cannot tell of changes", "error", n.err)
				}
			case <-pause.C: // a log that does not answer delays no poll
			case <-d.quit:
				return
			}
		}
		if changed != nil {
			every = max(every, stream.PollWatched)
		}
		d.mu.Lock()
		d.queue.Changed()
		d.mu.Unlock()
		d.wake()
		look.Reset(every)
		pause.Reset(watchPause)
		select { // a log may report every commit
		case <-pause.C:
		case <-d.quit:
			return
		}
		select {
		case <-changed:
		case <-look.C:
		case <-d.quit:
			return
		}
	}
}

// A notice is the log's answer to the request for its next change.
type notice struct {
	changed <-chan struct{}
	err     error
}

// askLog asks a log for its next change, on a separate goroutine, because the log is user code.
func (d *dispatcher) askLog(w store.Watcher) <-chan notice {
	asked := make(chan notice, 1)
	go func() {
		changed, err := guard.Apart(d.context, "Changed of the store", func() (<-chan struct{}, error) {
			changed := w.Changed()
			if changed == nil {
				return nil, errors.New("method Changed of the store has returned no channel")
			}
			return changed, nil
		})
		if d.context.Err() != nil {
			err = nil // the engine is closing
		}
		asked <- notice{changed, err}
	}()
	return asked
}
