package projection

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"unicode/utf8"

	"github.com/perdure/perdure/store"
)

// A Target keeps a read model and, beside it in the same transaction, the notes of its
// projections: positions, parked entities, versions. Tx is the target's native transaction, which
// handlers write to. Many goroutines may call all methods at once. One goroutine at a time uses a
// Tx, and only until the function that got it returns.
//
// Every target must pass projectiontest.Run.
type Target[Tx any] interface {
	// Update runs do in one transaction and commits it if do returns nil: all of it or nothing.
	// If do returns an error, Update wraps that error and stores nothing. After an error of the
	// commit the outcome is unknown, unless the error matches store.ErrNotStored. A target that
	// must retry (serialization) may call do again with a new transaction, so do must have no
	// effects outside of Tx.
	Update(ctx context.Context, do func(Tx) error) error
	// View runs do on one consistent, read-only state.
	View(ctx context.Context, do func(Tx) error) error
	// Note returns the note under key, nil if there is none. The caller may keep it. Within
	// Update, Note also locks the note against other writers until the transaction ends, even a
	// note that does not exist yet, if the target has more than one writer.
	Note(ctx context.Context, tx Tx, key string) ([]byte, error)
	// SetNote stores a note; a nil value removes it. SetNote does not keep value. Within View it
	// returns an error.
	SetNote(ctx context.Context, tx Tx, key string, value []byte) error
	// Notes yields the notes whose key begins with prefix, in byte order of the keys. Their
	// values are valid until the next step. The caller may change notes that it already got while
	// the iteration goes on.
	Notes(ctx context.Context, tx Tx, prefix string) iter.Seq2[Note, error]
}

// A Note is a small record that a [Target] keeps for a projection. The target
// does not look into it.
type Note struct {
	// Key is the name of the note: valid UTF-8 without a zero byte, at most [NoteKeyBytesMax]
	// bytes.
	Key string
	// Value has at most [NoteBytesMax] bytes.
	Value []byte
}

// Bounds of notes.
const (
	// NoteKeyBytesMax is large enough for the names of a projection and of an entity.
	NoteKeyBytesMax = 2048
	// NoteBytesMax bounds the value of a note.
	NoteBytesMax = 64 << 10
)

// Validate returns an error matching [store.ErrInvalid] or [store.ErrTooLarge] that says which
// rule the note breaks. Every target calls it before it stores a note.
func (n *Note) Validate() error {
	switch {
	case len(n.Key) > NoteKeyBytesMax:
		return fmt.Errorf("%w: note key of %d bytes, at most %d are allowed", store.ErrTooLarge, len(n.Key), NoteKeyBytesMax)
	case n.Key == "":
		return fmt.Errorf("%w: note key is empty", store.ErrInvalid)
	case !utf8.ValidString(n.Key):
		return fmt.Errorf("%w: note key %q is not valid UTF-8", store.ErrInvalid, n.Key)
	case strings.IndexByte(n.Key, 0) >= 0:
		return fmt.Errorf("%w: note key %q has a zero byte", store.ErrInvalid, n.Key)
	case len(n.Value) > NoteBytesMax:
		return fmt.Errorf("%w: note %q of %d bytes, at most %d are allowed", store.ErrTooLarge, n.Key, len(n.Value), NoteBytesMax)
	}
	return nil
}

// A Blame says whose fault an error is.
type Blame uint8

// The results of a [Classifier] and of the function for [Classify].
const (
	// BlameUnknown: the error alone does not tell. The runner then tests whether the target can
	// write: if it can, the event is at fault, otherwise the target.
	BlameUnknown Blame = iota
	// BlameEvent: the event is at fault. The runner tries it again and gives up in the end, see
	// [OnFailure].
	BlameEvent
	// BlameHopeless: the event is at fault, and trying again is of no use.
	BlameHopeless
	// BlameTarget: the target is at fault, for example because its disk is full. The runner tries
	// the batch again until it works.
	BlameTarget
)

// A Classifier tells which errors of its database are the database's own fault. It is an optional
// interface of a [Target].
type Classifier interface {
	// Blame says whose fault an error of a rule or of the target is.
	Blame(err error) Blame
}

// A Checker finds out whether a transaction can still be committed. It is an optional interface
// of a [Target]; without it the runner reads a note instead.
type Checker[Tx any] interface {
	// Check returns an error if rules have ended the transaction, or left it so that it cannot be
	// committed. The runner calls it within Update after the rule of each event ([OnBatch]: after
	// each batch). So no later rule writes after the end of a transaction, where many databases
	// would store each write at once. Check should cost little. An error that matches [ErrTarget]
	// is the target's fault; any other error is the fault of the rules.
	Check(ctx context.Context, tx Tx) error
}

// A Flusher is a target whose transactions may keep writes of rules and send them later. It is an
// optional interface of a [Target] that is also a [Checker].
type Flusher[Tx any] interface {
	// Flush sends the writes that rules have left to it, and waits for their results. The runner
	// calls it within Update after the last rule, and after a rule that has failed. If one of the
	// writes has failed, Flush and every later call return an error made by [FailedAt], whose
	// index is the number of calls of Check in this transaction before the write, or -1 if the
	// target does not know which write it was. So the runner finds the event whose rule has
	// written it. Check and the methods of the transaction may return this error too.
	Flush(ctx context.Context, tx Tx) error
}

// A Volatile target keeps nothing beyond the process, for example the one of
// package memorytarget. Each start builds
// its read model from the start of the log, so the log keeps all events. It is an optional
// interface of a [Target].
type Volatile interface {
	// Volatile reports whether the read model ends with the process.
	Volatile() bool
}
