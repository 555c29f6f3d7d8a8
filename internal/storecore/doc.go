// Package storecore is the shared code of the stores that keep records under sorted keys:
// the queue of their committers, the cache of heads, the pages that reads copy records
// into, and the form of keys and values.
//
// It does not depend on an engine. Code that depends on how an engine reads and writes (the
// order of checks within a transaction, the proof that an entry is missing) stays in the
// driver.
package storecore
