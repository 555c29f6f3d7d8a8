// Package scribble finds memory that an engine and its users share by mistake. With the
// build tag scribble, the engine works on a copy of each value that a user hands over, and
// overwrites the copy as soon as the user could change the original. It also overwrites its
// own copy of each value that it hands out, as soon as the user has another copy. So every
// test that depends on a missing copy fails. Without the tag all of it compiles to nothing.
//
//	go test -tags scribble . ./test/linearize -short
//
// It covers, in package perdure:
//
//   - the message and the metadata of a call, which are overwritten when the call returns,
//     even if its caller leaves early
//   - the state of Ask and State and the answer of Query, which are overwritten where the
//     entity could still hold them
//   - the events, effects and messages of a decision, which are overwritten when the rule's
//     turn is over
//
// It does not cover values that a rule takes from its state without returning them, nor
// events that readers of the log get, which they must not change.
package scribble
