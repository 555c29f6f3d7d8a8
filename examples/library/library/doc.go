// Package library is the domain of the sample: books can be registered, lent and returned,
// and readers have books out.
//
// A book is an entity of the kind [Books]. Its rules are plain functions: one for each
// command, in decide.go, and one for each event, in evolve.go. They do not depend on
// engines or stores, so a test calls them directly. Work that follows the commit is part of
// their result: a message to a reader, a timer, a reminder.
//
// A reader is an entity of the durable-state kind [Readers].
package library
