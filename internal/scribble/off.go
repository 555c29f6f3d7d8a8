//go:build !scribble

package scribble

import "google.golang.org/protobuf/proto"

// On reports whether the build tag scribble is set.
const On = false

// Message does nothing.
func Message(proto.Message) {}

// Values does nothing.
func Values(map[string]string) {}
