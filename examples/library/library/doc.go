// Package library is the domain of the sample: books that are registered, lent
// and returned, and the readers who have them.
//
// A book is an entity of the kind [Books]. What it does is told by plain
// functions: one for each command, in decide.go, and one for each event, in
// evolve.go. They know nothing of engines or stores, so a test calls them as
// they are. What a book leaves to be done after its commit is part of what they
// return: a message to a reader, a timer, a reminder.
//
// A reader is an entity of the kind [Readers], which keeps its latest state
// alone.
package library
