package main

import (
	"fmt"
	"io"
)

// A printer writes text and keeps the first error for flush, so that a program whose output fails
// reports that once.
type printer struct {
	w       io.Writer
	failure error
}

func newPrinter(w io.Writer) *printer { return &printer{w: w} }

func (p *printer) printf(format string, args ...any) {
	if _, err := fmt.Fprintf(p.w, format, args...); err != nil && p.failure == nil {
		p.failure = fmt.Errorf("print: %w", err)
	}
}

// flush writes the buffered text, and returns the first error.
func (p *printer) flush() error {
	if b, ok := p.w.(interface{ Flush() error }); ok {
		if err := b.Flush(); err != nil && p.failure == nil {
			p.failure = fmt.Errorf("print: %w", err)
		}
	}
	return p.failure
}
