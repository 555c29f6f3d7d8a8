package projection

import (
	"context"
	"iter"
)

// A Target keeps a read model and, beside it in the same transaction, the
// notes of its projections: positions, parked entities, versions. Tx is the
// target's native transaction, which is what handlers write to. All methods
// may be called by many goroutines at once; a Tx is used by one at a time, and
// only until the function that got it returns.
//
// Every target passes projectiontest.Run.
type Target[Tx any] interface {
	// Update runs do in one transaction and commits if do returned nil; whole
	// or not at all. The error of do is returned as it is (wrapped), and nothing
	// is stored then; an error of the commit leaves the outcome unknown unless it
	// matches store.ErrNotStored. A target that must retry (serialization) may
	// call do again with a new transaction; so do must have no effects outside
	// of Tx.
	Update(ctx context.Context, do func(Tx) error) error
	// View runs do on one consistent state, read only.
	View(ctx context.Context, do func(Tx) error) error
	// Note returns the note under key, nil if there is none. It is the caller's
	// to keep. Within Update it holds the note, also one that is not there yet,
	// against other writers until the transaction ends, where the target has more
	// than one writer.
	Note(ctx context.Context, tx Tx, key string) ([]byte, error)
	// SetNote stores a note; nil removes it. It does not keep value. Within View
	// it is an error.
	SetNote(ctx context.Context, tx Tx, key string, value []byte) error
	// Notes yields the notes whose key begins with prefix, in byte order of the
	// keys. Their values are valid until the next step. Notes that have been
	// yielded may be changed meanwhile.
	Notes(ctx context.Context, tx Tx, prefix string) iter.Seq2[Note, error]
}

// A Note is a small record that a [Target] keeps for a projection. The target
// does not look into it.
type Note struct {
	// Key names the note. It is valid UTF-8 without a zero byte, at most
	// [NoteKeyBytesMax] bytes.
	Key string
	// Value is at most [NoteBytesMax] bytes.
	Value []byte
}

// Bounds of notes.
const (
	// NoteKeyBytesMax holds the names of a projection and of an entity.
	NoteKeyBytesMax = 2048
	// NoteBytesMax holds what a note says.
	NoteBytesMax = 64 << 10
)

// A Blame says whose fault an error is.
type Blame uint8

// What [Classify] and a [Classifier] return.
const (
	// BlameUnknown: it cannot be told by the error. Then it is the event's fault if
	// the target can write, and otherwise the target's.
	BlameUnknown Blame = iota
	// BlameEvent: it is the fault of the event, which is tried again, and given up
	// in the end, see [OnFailure].
	BlameEvent
	// BlameHopeless: it is the fault of the event, and trying again is of no use.
	BlameHopeless
	// BlameTarget: it is the fault of the target, such as a full disk. The batch is
	// tried again until it works.
	BlameTarget
)

// A Classifier tells which errors of its database are its own fault and no event's.
// It is an optional ability of a [Target].
type Classifier interface {
	// Blame says whose fault an error of a rule or of the target is.
	Blame(err error) Blame
}

// A Checker finds out whether a transaction is still what it was when it began. It
// is an optional ability of a [Target]; without it the runner reads a note instead.
type Checker[Tx any] interface {
	// Check returns an error if rules have ended the transaction, or left it so that
	// it cannot be committed. It is called within Update, after the rule of each event
	// ([OnBatch]: of each batch), so that no later rule writes behind the end of a
	// transaction, which many databases store at once. So it should cost little.
	// An error that matches [ErrTarget] is the target's fault, any other one that
	// of the rules.
	Check(ctx context.Context, tx Tx) error
}

// A Volatile target keeps nothing beyond the process, as a [Memory]. Its read model
// is built from the start of the log each time, so the log keeps all of it. It is an
// optional ability of a [Target].
type Volatile interface {
	// Volatile reports whether the read model is gone with the process.
	Volatile() bool
}
