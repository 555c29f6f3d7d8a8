// Package streamtest tests consumers of a log: whether a subscription, ours or
// one that you have built, keeps the six promises of a stream.
//
// Let the consumer note what happens to it in a [History], over as many starts
// and crashes as you like, and compare it with what the log holds by [Check], or
// by one of the validators alone: [Ordered], [Unique], [Atomic], [Reliable],
// [Resumable] and [Bookmarkable].
//
// [RunCheckpoints] tests an implementation of [stream.Checkpoints].
package streamtest
