// Package storecore is the shared code of the durable stores: the rules of the port that
// decide which batches are stored, the queue of their committers, the cache of heads, the
// pages that reads copy records into, and the encoding of keys and values.
//
// It does not depend on an engine. Code that depends on how an engine reads and writes (the
// proof that an entry is missing, the layout of a value) stays in the driver.
package storecore
