// Package sqltarget tests [github.com/perdure/perdure/projection/sqltarget] with real drivers,
// those of SQLite and PostgreSQL. It belongs to the module of the tests, so that no user of
// Perdure downloads these drivers.
package sqltarget
