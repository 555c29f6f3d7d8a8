// Package damage helps readers of a log to pass over damaged events. The error of a scan does not
// always name the damaged event, so a reader continues with the events one by one.
package damage

import (
	"errors"
	"fmt"

	"github.com/perdure/perdure/store"
)

// First returns the position at which a reader continues, one event at a time, after a scan above
// a position and through another one has ended with an error. That is the position of the damaged
// event if the error names it, because the scan has yielded the selected events before it. It
// returns false if the error is not about a damaged event.
func First(after, through store.Position, err error) (store.Position, bool) {
	c, ok := errors.AsType[*store.CorruptError](err)
	if !ok {
		return 0, false
	}
	if c.Position > after && c.Position <= through {
		return c.Position, true
	}
	return after + 1, true
}

// At returns the error of a reader that cannot pass over the damaged event at a position. It wraps
// the error of the log. The cure, if it is not empty, says what to do.
func At(p store.Position, err error, cure string) error {
	if c, ok := errors.AsType[*store.CorruptError](err); ok && c.Position == 0 {
		c.Position = p
	}
	if cure != "" {
		cure = " (" + cure + ")"
	}
	return fmt.Errorf("read the event at position %v%s: %w", p, cure, err)
}
