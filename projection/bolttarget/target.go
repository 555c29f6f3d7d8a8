// Package bolttarget keeps a read model and its notes in a file of go.etcd.io/bbolt: handlers
// write to the buckets of the file, in the same transaction as the position of their projection,
// so that each event counts exactly once.
//
// The caller owns the file: open it, give it to [New], and close it after the projections have
// stopped. Use another file than that of the log, so that neither waits for the other.
//
// Keep read transactions short. While a View is open, bbolt cannot reuse the space of the pages
// that later commits replace, and a commit that must map a larger file waits for the View; a
// large [bbolt.Options.InitialMmapSize] makes such commits rare.
package bolttarget

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime/debug"
	"strings"
	"sync/atomic"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
)

// bucketStandard is the name of the bucket without the option [Bucket].
const bucketStandard = "perdure.notes"

// A Target keeps a read model in a bbolt file. Many goroutines may call all its methods at once.
//
// Invariants:
//
//   - One transaction writes to a file at a time, so an Update holds each note against all other
//     writers, and never runs do twice.
//   - After an error of bbolt's commit the outcome is unknown. The error may come after the meta
//     page was written; then every new transaction would see data that may not be on the disk. So
//     the target is broken: every call returns an error matching [store.ErrBroken], until the
//     file is closed and opened again for a new target.
//   - Damage of the file makes bbolt panic, or fault on a page that does not exist. If bbolt has
//     panicked, or a read went to an address of the file without a page, the target returns an
//     error matching [store.ErrCorrupt]. Any other panic of a handler passes through. In both
//     cases the transaction is rolled back.
type Target struct {
	db      *bbolt.DB
	path    string
	bucket  []byte
	writing chan struct{} // has one element while a writable transaction runs or waits
	broken  atomic.Pointer[error]
}

var (
	_ projection.Target[*bbolt.Tx]  = (*Target)(nil)
	_ projection.Checker[*bbolt.Tx] = (*Target)(nil)
	_ projection.Classifier         = (*Target)(nil)
)

// An Option changes how a target is made.
type Option interface{ apply(*Target) }

type option func(*Target)

func (o option) apply(t *Target) { o(t) }

// Bucket sets the name of the bucket for the notes. The target creates the bucket if it does not
// exist. Do not write to it. The default is "perdure.notes".
func Bucket(name string) Option {
	return option(func(t *Target) { t.bucket = []byte(name) })
}

// New returns a target in db. It does not close db. New creates the bucket for the notes, unless
// db is open for reading only; then the target cannot Update. Make only one target for a file and
// a bucket.
func New(db *bbolt.DB, options ...Option) (*Target, error) {
	t := &Target{db: db, path: db.Path(), bucket: []byte(bucketStandard), writing: make(chan struct{}, 1)}
	for _, o := range options {
		o.apply(t)
	}
	if len(t.bucket) == 0 {
		return nil, fmt.Errorf("open bolt target %s: %w: the bucket has no name", t.path, store.ErrInvalid)
	}
	if db.IsReadOnly() {
		return t, nil
	}
	err := t.Update(context.Background(), func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(t.bucket)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open bolt target %s: create bucket %q: %w", t.path, t.bucket, err)
	}
	return t, nil
}

// Update implements [projection.Target]. It waits for other writers of the file until ctx ends.
// An error that leaves the outcome unknown breaks the target, see [Target]. do must not end the
// transaction.
func (t *Target) Update(ctx context.Context, do func(*bbolt.Tx) error) error {
	if err := t.update(ctx, do); err != nil {
		return fmt.Errorf("update %s: %w", t.path, err)
	}
	return nil
}

func (t *Target) update(ctx context.Context, do func(*bbolt.Tx) error) (failure error) {
	select {
	case t.writing <- struct{}{}:
	case <-ctx.Done():
		return notStored(ctx.Err())
	}
	err := ctx.Err()
	if err == nil {
		err = t.usable()
	}
	if err != nil {
		<-t.writing
		return notStored(err)
	}
	tx, err := t.begin(ctx)
	if err != nil {
		return notStored(err)
	}
	defer func() { <-t.writing }()
	defer t.recover(&failure)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if tx.DB() != nil {
			t.rollback(tx)
		}
	}()
	if err := do(tx); err != nil {
		return err
	}
	if tx.DB() == nil {
		return errors.New("do has ended the transaction")
	}
	if err := ctx.Err(); err != nil {
		return notStored(err)
	}
	return t.commit(tx)
}

func (t *Target) commit(tx *bbolt.Tx) error {
	err := t.guard(tx.Commit)
	if err != nil {
		t.breakDown(fmt.Errorf("a commit has failed: %w", err))
	}
	return err
}

func notStored(err error) error { return fmt.Errorf("%w: %w", store.ErrNotStored, err) }

// begin begins a writable transaction. The caller must hold writing; begin releases it unless it
// returns a transaction. bbolt waits for other writers without a context, so begin waits in a
// goroutine of its own. That goroutine ends after the other writers, and because it holds
// writing, there is only one at a time.
func (t *Target) begin(ctx context.Context) (*bbolt.Tx, error) {
	type result struct {
		tx  *bbolt.Tx
		err error
	}
	begun := make(chan result)
	go func() {
		var r result
		r.tx, r.err = t.beginTx(true)
		select {
		case begun <- r:
		case <-ctx.Done():
			if r.tx != nil {
				t.rollback(r.tx)
			}
			<-t.writing
		}
	}()
	select {
	case r := <-begun:
		if r.err != nil {
			<-t.writing
		}
		return r.tx, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// beginTx begins a transaction. If bbolt panics here, it keeps its locks, so every later call of
// bbolt would block permanently.
func (t *Target) beginTx(writable bool) (tx *bbolt.Tx, err error) {
	begun := false
	defer func() {
		if !begun {
			t.breakDown(errors.New("the first pages of the file are damaged"))
		}
	}()
	err = t.guard(func() error {
		var err error
		tx, err = t.db.Begin(writable)
		begun = true
		if errors.Is(err, berrors.ErrDatabaseNotOpen) {
			return store.ErrClosed
		}
		return err
	})
	return tx, err
}

// rollback ends a transaction without a commit.
func (t *Target) rollback(tx *bbolt.Tx) {
	if err := t.guard(tx.Rollback); err != nil {
		t.breakDown(fmt.Errorf("a rollback has failed: %w", err))
	}
}

// View implements [projection.Target].
func (t *Target) View(ctx context.Context, do func(*bbolt.Tx) error) error {
	if err := t.view(ctx, do); err != nil {
		return fmt.Errorf("view %s: %w", t.path, err)
	}
	return nil
}

func (t *Target) view(ctx context.Context, do func(*bbolt.Tx) error) (failure error) {
	err := ctx.Err()
	if err == nil {
		err = t.usable()
	}
	if err != nil {
		return err
	}
	tx, err := t.beginTx(false)
	if err != nil {
		return err
	}
	defer t.recover(&failure)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if tx.DB() != nil {
			t.rollback(tx)
		}
	}()
	return do(tx)
}

// usable returns the reason why the target cannot be used, or nil.
func (t *Target) usable() error {
	if why := t.broken.Load(); why != nil {
		return fmt.Errorf("%w: %w", store.ErrBroken, *why)
	}
	return nil
}

func (t *Target) breakDown(why error) { t.broken.CompareAndSwap(nil, &why) }

// notes returns the bucket of the notes.
func (t *Target) notes(tx *bbolt.Tx) (*bbolt.Bucket, error) {
	if b := tx.Bucket(t.bucket); b != nil {
		return b, nil
	}
	if tx.DB() != nil && tx.DB().IsReadOnly() {
		return nil, nil // no Update has created it yet
	}
	return nil, &store.CorruptError{What: "notes", Where: t.path, Reason: fmt.Sprintf("bucket %q is gone", t.bucket)}
}

// errEnded says that a rule has ended the transaction.
var errEnded = errors.New("the transaction has ended")

// Check implements [projection.Checker].
func (t *Target) Check(_ context.Context, tx *bbolt.Tx) error {
	if tx.DB() == nil {
		return errEnded
	}
	return nil
}

// Blame implements [projection.Classifier]. A file that is not open, or open only for reading, a
// lock that is not available in time, and a broken target are the target's fault. For every
// target errors of the disk are too.
func (t *Target) Blame(err error) projection.Blame {
	for _, own := range []error{
		berrors.ErrDatabaseNotOpen, berrors.ErrDatabaseReadOnly, berrors.ErrTimeout, store.ErrBroken, store.ErrClosed,
	} {
		if errors.Is(err, own) {
			return projection.BlameTarget
		}
	}
	return projection.BlameUnknown
}

// Note implements [projection.Target].
func (t *Target) Note(_ context.Context, tx *bbolt.Tx, key string) (value []byte, err error) {
	err = t.guard(func() error {
		if tx.DB() == nil {
			return errEnded
		}
		b, err := t.notes(tx)
		if b == nil || err != nil {
			return err
		}
		if v := b.Get([]byte(key)); v != nil {
			value = append([]byte{}, v...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read note %q: %w", key, err)
	}
	return value, nil
}

// SetNote implements [projection.Target].
func (t *Target) SetNote(_ context.Context, tx *bbolt.Tx, key string, value []byte) error {
	n := projection.Note{Key: key, Value: value}
	if err := n.Validate(); err != nil {
		return fmt.Errorf("set note: %w", err)
	}
	err := t.guard(func() error {
		if tx.DB() == nil {
			return errEnded
		}
		if !tx.Writable() {
			return errors.New("a view stores nothing")
		}
		b, err := t.notes(tx)
		if err != nil {
			return err
		}
		if value == nil {
			return b.Delete([]byte(key))
		}
		return b.Put([]byte(key), bytes.Clone(value)) // bbolt keeps the slice until the commit
	})
	if err != nil {
		return fmt.Errorf("set note %q: %w", key, err)
	}
	return nil
}

// pageNotes is the number of notes that are read at once, so that no cursor is open while the
// caller may write.
const pageNotes = 128

// Notes implements [projection.Target]. The caller may change notes that it already got during
// the iteration.
func (t *Target) Notes(ctx context.Context, tx *bbolt.Tx, prefix string) iter.Seq2[projection.Note, error] {
	return func(yield func(projection.Note, error) bool) {
		from := prefix
		for {
			page, err := t.page(ctx, tx, prefix, from)
			if err != nil {
				yield(projection.Note{}, fmt.Errorf("read notes %q: %w", prefix, err))
				return
			}
			for _, n := range page {
				if !yield(n, nil) {
					return
				}
			}
			if len(page) < pageNotes {
				return
			}
			from = page[len(page)-1].Key + "\x00" // the smallest key after the last one
		}
	}
}

// page returns the notes from a key on.
func (t *Target) page(ctx context.Context, tx *bbolt.Tx, prefix, from string) (page []projection.Note, err error) {
	err = t.guard(func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if tx.DB() == nil {
			return errEnded
		}
		b, err := t.notes(tx)
		if b == nil || err != nil {
			return err
		}
		c := b.Cursor()
		for k, v := c.Seek([]byte(from)); k != nil && strings.HasPrefix(string(k), prefix); k, v = c.Next() {
			page = append(page, projection.Note{Key: string(k), Value: append([]byte{}, v...)})
			if len(page) == pageNotes {
				break
			}
		}
		return nil
	})
	return page, err
}
