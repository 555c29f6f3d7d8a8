package store

import (
	"fmt"
	"hash/fnv"
	"strings"
	"unicode/utf8"

	"github.com/gofrs/uuid/v5"
)

// Bounds of names. They are the same in every store, so that a log can always
// be copied from one store to another.
const (
	KindBytesMax = 128
	IDBytesMax   = 1024
	TypeBytesMax = 512
	TagBytesMax  = 256
	// NameBytesMax bounds timer names, idempotency keys, claim spaces, claim
	// values and checkpoint names.
	NameBytesMax = 1024
)

// A Version counts the changes of one entity: it is the number of its events, or the number of
// times that its state has been saved. The first change makes version 1; an entity without
// changes has version 0.
type Version uint64

// A Key is the permanent name of one entity.
type Key struct {
	// Kind is the kind of entity, such as "book".
	Kind string
	// ID names the entity within its kind. It is valid UTF-8 without a zero byte.
	ID string
}

// String returns kind/id, for logs and error texts.
func (k Key) String() string { return k.Kind + "/" + k.ID }

// IsZero reports whether k is the zero Key, which names no entity.
func (k Key) IsZero() bool { return k == Key{} }

// Validate returns an error matching [ErrInvalid] that names the mistake in k, or nil.
func (k Key) Validate() error {
	if err := validateName("kind", k.Kind, KindBytesMax); err != nil {
		return err
	}
	return validateName("entity id", k.ID, IDBytesMax)
}

// ValidateName returns an error matching [ErrInvalid] that names the mistake in a name of at most
// [NameBytesMax] bytes: the name of a timer, an idempotency key, a claim or a checkpoint. what
// names the kind of name in the error, for example "timer name".
func ValidateName(what, name string) error { return validateName(what, name, NameBytesMax) }

// validateName checks a name that becomes part of a store's key.
func validateName(what, s string, bytesMax int) error {
	if plain(s) && len(s) <= bytesMax {
		return nil
	}
	switch {
	case s == "":
		return fmt.Errorf("%w: %s is empty", ErrInvalid, what)
	case len(s) > bytesMax:
		return fmt.Errorf("%w: %s of %d bytes, at most %d are allowed", ErrInvalid, what, len(s), bytesMax)
	case strings.IndexByte(s, 0) >= 0:
		return fmt.Errorf("%w: %s %q holds a zero byte", ErrInvalid, what, s)
	case !utf8.ValidString(s):
		return fmt.Errorf("%w: %s %q is not valid UTF-8", ErrInvalid, what, s)
	}
	return nil
}

// plain reports whether s is not empty and has only bytes that need no further check, as nearly
// all names do.
func plain(s string) bool {
	for i := range len(s) {
		if s[i]-1 >= utf8.RuneSelf-1 {
			return false
		}
	}
	return s != ""
}

// An ID identifies one record or one command. It is a UUID; those that Perdure makes are version
// 7.
type ID [16]byte

// String returns the usual text form of a UUID.
func (id ID) String() string { return uuid.UUID(id).String() }

// IsZero reports whether id is the zero ID, which identifies nothing.
func (id ID) IsZero() bool { return id == ID{} }

// ParseID reads the text form of a UUID.
func ParseID(s string) (ID, error) {
	id, err := uuid.FromString(s)
	if err != nil {
		return ID{}, fmt.Errorf("%w: id %q: %w", ErrInvalid, s, err)
	}
	return ID(id), nil
}

// PartitionOf returns the partition of the entity in a log with this number of partitions. It is
// the 64-bit FNV-1a hash of kind, a zero byte and id, mixed by one round of MurmurHash3's
// finalizer so that its low bits are good, modulo partitions. The result never changes, because
// an entity must stay in one partition.
func PartitionOf(key Key, partitions int) int {
	if partitions <= 1 {
		return 0
	}
	h := fnv.New64a()
	h.Write([]byte(key.Kind))
	h.Write([]byte{0})
	h.Write([]byte(key.ID))
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return int(x % uint64(partitions))
}
