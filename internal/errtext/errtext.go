// Package errtext makes errors whose text is independent of the errors that they match.
package errtext

// New returns an error with the given text that matches all of the errors in is. With
// fmt.Errorf, the text of a matched error is always a part of the new text. For example,
// New("log is opened read-only", errors.ErrUnsupported) matches errors.ErrUnsupported,
// and its text does not contain "unsupported operation".
func New(text string, is ...error) error { return &textError{text, is} }

type textError struct {
	text string
	is   []error
}

func (e *textError) Error() string   { return e.text }
func (e *textError) Unwrap() []error { return e.is }
