// Package scribble finds memory that an engine and its users share. With the build tag
// scribble, the engine gives its own code, in the place of what a user hands over, a copy
// that it spoils as soon as the user could change the original; and it spoils its own
// copy of what it hands out as soon as the user has got another. So every test fails that
// depends on what should have been copied. Without the tag all of it compiles to nothing.
//
//	go test -tags scribble . ./proof -short
//
// It covers, in package perdure:
//
//   - the message and the metadata of a call, which are spoilt when the call returns,
//     also if its caller leaves early
//   - the state of Ask and State and the answer of Query, which are spoilt where the
//     entity could still hold them
//   - the events, effects and messages of a decision, which are spoilt when the rule's
//     turn is over
//
// It does not cover values that a rule takes from its state without returning them, nor
// events that readers of the log get, which they must not change.
package scribble
