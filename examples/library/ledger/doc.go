// Package ledger brings a library's ledger, a CSV file of loans, to its books.
//
// [Read] takes the file and sets aside the rows that make no loan. [Import]
// turns the loans into commands, in the order in which things happened at the
// desk, and sends them to the entities of [library.Books]. An import that is
// stopped or killed at any moment and started again goes on where it was, see
// [Import] for how it knows.
package ledger
