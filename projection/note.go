package projection

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/perdure/perdure/store"
)

// Validate returns an error matching [store.ErrInvalid] or [store.ErrTooLarge]
// that says which rule the note breaks. Every target calls it before it stores
// a note.
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
