package errtext_test

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/perdure/perdure/internal/errtext"
)

func TestNew(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("commit: %w", errtext.New("log is opened read-only", errors.ErrUnsupported, fs.ErrPermission))
	if got, want := err.Error(), "commit: log is opened read-only"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, is := range []error{errors.ErrUnsupported, fs.ErrPermission} {
		if !errors.Is(err, is) {
			t.Errorf("the error does not match %v", is)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		t.Errorf("the error matches %v", fs.ErrExist)
	}
}
