// Package drivers tests package sqltarget with real drivers, of SQLite and of
// PostgreSQL. It is a module of its own so that nobody else fetches them.
package drivers
