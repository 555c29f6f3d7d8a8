// Package store defines the storage port: the [Log] interface, its records and their encoding.
//
// A [Log] keeps the events of many entities in one order. The changes of one command are a
// [Batch]: events or a state, a snapshot, outbox messages, timers, a receipt, claims of unique
// values. A log stores a batch whole or not at all, and only if its entity is at the expected
// version. It commits many batches as one group with one sync.
//
// The records are protobuf messages (proto/perdure/v1), each followed by a CRC-32C that every
// read checks. [AppendEvent], [Decoder.Event] and similar functions encode and decode them, in
// the same way for every store.
//
// Package storetest has the conformance suite that every store must pass. To write a store of your
// own, implement Log and run the suite. A store that cannot do all of it embeds [Unsupported].
package store
