// Package library is the domain of the sample: books that are registered, lent
// and returned.
//
// A book is an entity of the kind [Books]. What it does is told by plain
// functions: one for each command, in decide.go, and one for each event, in
// evolve.go. They know nothing of engines or stores, so a test calls them as
// they are.
package library
