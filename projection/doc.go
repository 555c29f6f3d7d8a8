// Package projection keeps read models: tables, buckets or documents that are
// built from the events of a log, in order, each event once, and that can be
// rebuilt while they are read.
package projection
