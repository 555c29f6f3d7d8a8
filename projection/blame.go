package projection

import (
	"context"
	"errors"
	"syscall"

	"github.com/perdure/perdure/store"
)

// diskErrors are errors of the operating system for which no event is to blame.
var diskErrors = []error{
	syscall.ENOSPC, syscall.EROFS, syscall.EIO, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM,
}

// blameOf says whose fault the error of a rule is, as far as the error itself shows.
func (r *run) blameOf(err error) (b Blame) {
	if failed := contained(func() error {
		b = r.blameIn(err)
		return nil
	}); failed != nil {
		r.logger.Warn("projection cannot tell whose fault an error is", "projection", r.name, "version", r.version, "error", failed)
		return BlameUnknown
	}
	return b
}

// blameIn calls code of the user and of the target, which may fail in any way.
func (r *run) blameIn(err error) Blame {
	if r.classify != nil {
		if b := r.classify(err); b != BlameUnknown {
			return b
		}
	}
	if errors.Is(err, ErrTarget) || errors.Is(err, store.ErrCorrupt) {
		return BlameTarget
	}
	if b := r.back.blame(err); b != BlameUnknown {
		return b
	}
	for _, disk := range diskErrors {
		if errors.Is(err, disk) {
			return BlameTarget
		}
	}
	return BlameUnknown
}

// works reports whether the target can write. If it cannot, the error of a rule may be the
// target's fault. works writes the note of the segment, unchanged.
func (l *segment) works(ctx context.Context) bool {
	return l.run.back.update(ctx, func(t txn) error {
		b, err := t.note(ctx, l.keys.segment)
		if b == nil || err != nil {
			return err
		}
		return t.setNote(ctx, l.keys.segment, b)
	}) == nil
}
