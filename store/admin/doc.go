// Package admin works on whole logs, in any store: [Verify] checks a log, [Copy] moves it to
// another store, [Backup] copies its files while it is in use, and [NewDigest] makes a fingerprint
// of its content, to compare two logs.
//
// All of them read the log through the port of package store, mostly through [store.Exporter].
// The command perdure makes them available in a shell.
package admin
