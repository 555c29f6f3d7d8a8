// Package drivers tests package sqltarget with real drivers, of SQLite and of PostgreSQL. It is a
// module of its own so that no user of Perdure downloads them.
package drivers
