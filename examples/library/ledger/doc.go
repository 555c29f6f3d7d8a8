// Package ledger imports a library's ledger, a CSV file of loans, into its books.
//
// [Read] reads the file and sets aside the rows that make no loan. [Import] turns the loans
// into commands, in the order of the events at the desk, and sends them to the entities of
// [library.Books]. An import that was stopped or killed at any time continues where it was
// when it is started again; see [Import] for how it finds that place.
package ledger
