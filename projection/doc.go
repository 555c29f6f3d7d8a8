// Package projection keeps read models: tables, buckets or documents that are
// built from the events of a log, in order, each event once, and that can be
// rebuilt while they are read.
//
// # Declaring and running
//
// A projection is a name and a rule for each event, which writes to the native
// transaction of a database:
//
//	var Loans = projection.New("loans",
//		projection.Prepare(createTables),
//		projection.On(onLent), projection.On(onReturned),
//		projection.Clear(dropTables),
//	)
//
//	func onLent(ctx context.Context, tx *sql.Tx, e projection.Event[*libraryv1.BookLent]) error {
//		_, err := tx.ExecContext(ctx, "INSERT INTO "+projection.TableName(ctx, "loans")+" …", e.Key.ID, …)
//		return err
//	}
//
// [Projection.Into] binds it to a [Target], which is the database, and makes a
// [Runner]. An engine runs it as a [Service], or [Run] runs it on a bare log, or
// [RunOnce] brings it up to date and returns.
//
// # What may be relied on
//
// The position of a projection is a note beside the rows, written in the same
// transaction. So every event is in the read model exactly once, whatever fails
// and however many runners there are: each transaction compares the note with
// what its runner knows, and does nothing if another one was there. A target
// without transactions gets every event at least once, see [AtLeastOnce].
//
// Events of one entity are handled in order; with one lane, which is the default
// (see [Lanes]), all events of a partition are.
//
// A rule that fails does not stop the rest: its event is tried again, alone, with
// growing pauses, and then its entity is parked, see [OnFailure]. Parked entities
// are listed by [Runner.Parked] and brought back by [Runner.Retry]. A database
// that is down, full, locked or read-only is no event's fault: the runner waits for
// it. Targets know the errors of their databases, and [Classify] adds others. A rule
// that returns nil and has spoilt its transaction has failed too.
//
// The log keeps what a projection has yet to read, also while it does not run: a
// runner has bookmarks in the log that pruning respects, until [Runner.Remove].
// Each read model has its own, so replicas with a database each hold the log for
// the slowest of them. A model that is gone with the process, as in [Memory], holds
// all of the log. A new version begins at the first event that is kept, and
// [Status] and the log line of its beginning say if that is not the first one.
//
// # When a runner stops
//
// A position is believed only if the log still has the event that was there, and if
// the rules are for the events that the model was built of. Otherwise the runner
// stops in [StateFailed], with an error that names the cure, and skips nothing:
//
//   - [ErrReplaced]: the log was restored from a backup, and the model is ahead of it.
//     Restore the model too, give the projection a new [Version], or [Runner.Reset] it.
//   - [ErrOtherLog]: it is another log. If it is a copy, [Runner.Adopt] proves that.
//   - [ErrDeleted]: events were deleted before they were handled. A new version, or a
//     reset, begins with what is kept.
//   - [ErrSelection]: the rules are for other events, see [Version]. While a program
//     whose rules are for more keeps the model, this is [StateStandby].
//
// Before an event that the log cannot read, because it is damaged, the runner stays, tries
// again, and names the position; [Runner.SkipDamaged] has it pass over the event.
//
// # Reading
//
// The reply to a command has a position, and [WaitFor] waits until the read model
// shows it. [Serving] and [ServingTable] tell a query, in its own transaction,
// which version of the model to read.
//
// # Consumers
//
// [Consume] declares a projection without a read model: handlers that send mail or
// call other services, at least once for each event, with entities in parallel. Its
// notes are kept in the log by [InLog].
//
// # Rebuilding
//
// Give the changed projection a higher [Version] and run both. The new one is
// built beside the old one, in tables of its own, since [TableName] adds the
// version to their names, and never gets ahead of it. [Runner.Status] tells how far
// it is: [StateHolding] says that it has come to where the old one is.
// [Runner.Switch] has readers use it, in one transaction, and back if need be;
// [Runner.Remove] takes the old one away. What a rule does outside of the database
// belongs behind [Replaying], so that a rebuild does not do it again. The old program
// need not run: with [SwitchWhenLive] the new version goes on from where it stopped.
package projection
