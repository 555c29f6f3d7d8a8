// Package store says what a durable log must do, and what it keeps.
//
// A [Log] keeps the events of many entities in one order. What one command
// changes is a [Batch]: events or a state, a snapshot, outbox messages, timers,
// a receipt, claims of unique values. A batch is stored whole or not at all, on
// condition that its entity is at the expected version. Many batches are
// committed as one group with one sync.
//
// The records are protobuf messages (proto/perdure/v1), each followed by a
// CRC-32C that is checked on every read; [AppendEvent], [Decoder.Event] and
// their siblings encode and decode them, the same for every store.
//
// The package storetest holds the conformance suite that every store must
// pass. To write a store of your own, implement Log, then whichever of the
// optional abilities ([Catalog], [Pruner], [Outbox], [Receipts], [Claims],
// [Bookmarks], [Deletions], [Statistics], [Exclusive], [Instant]) it can offer, and run the
// suite.
package store
