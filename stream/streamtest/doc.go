// Package streamtest tests consumers of a log: it checks whether a subscription of
// package stream, or a consumer of your own, keeps the six promises of a stream.
//
// Record the steps of the consumer in a [History], over any number of starts and
// crashes. Then compare the history with the events of the log, by [Check] or by one of
// the validators: [Ordered], [Unique], [Atomic], [Reliable], [Resumable] and
// [Checkpointed].
//
// [RunCheckpoints] tests an implementation of [stream.Checkpoints].
package streamtest
