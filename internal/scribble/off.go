//go:build !scribble

package scribble

import "google.golang.org/protobuf/proto"

// On reports whether memory is spoilt.
const On = false

// Message spoils a message.
func Message(proto.Message) {}

// Values spoils a map.
func Values(map[string]string) {}
