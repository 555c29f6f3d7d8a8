//go:build !linux

package faultfs

import "errors"

// A Mount is a mounted file system, which this operating system does not support.
type Mount struct {
	// Disk makes operations fail.
	Disk *Disk
}

// New returns an error matching [errors.ErrUnsupported].
func New(dir, shown string) (*Mount, error) { return nil, errors.ErrUnsupported }

// Close does nothing.
func (m *Mount) Close() error { return nil }
