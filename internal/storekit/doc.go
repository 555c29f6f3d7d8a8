// Package storekit holds what the stores that keep records under sorted keys
// have in common: the queue of their committers, the cache of heads, the pages
// that reads copy records into, and the form of keys and values.
//
// It knows no engine. What depends on how an engine reads and writes (the order
// of checks within a transaction, what proves that an entry is missing) stays
// with the driver.
package storekit
