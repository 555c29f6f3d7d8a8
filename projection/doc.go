// Package projection keeps read models: tables, buckets or documents that are built from the
// events of a log. A projection handles the events in order, each event once, and can be rebuilt
// while programs read the model.
//
// # Declaring and running
//
// A projection is a name and a rule for each type of event. A rule writes to the native
// transaction of a database:
//
//	var Loans = projection.New("loans",
//		projection.Prepare(createTables),
//		projection.On(onLent), projection.On(onReturned),
//		projection.Clear(dropTables),
//	)
//
//	func onLent(ctx context.Context, tx *sqltarget.Tx, e projection.Event[*libraryv1.BookLent]) error {
//		_, err := tx.ExecContext(ctx, "INSERT INTO "+projection.TableName(ctx, "loans")+" …", e.Key.ID, …)
//		return err
//	}
//
// [Projection.Into] binds the projection to a [Target], which is the database, and makes a
// [Runner]. The packages memorytarget, bolttarget, sqltarget and pgxtarget have targets, and
// projectiontest checks one of your own. An engine runs it as a [Service], [Run] runs it on a bare
// log, and [RunOnce] brings it up to date and returns.
//
// # Guarantees
//
// The position of a projection is a note: a small record beside the rows. The runner writes both
// in the same transaction. So every event is in the read model exactly once, whatever fails and
// however many runners there are: each transaction compares the note with the note that its
// runner knows, and writes nothing if another runner has changed it. A target without
// transactions gets every event at least once, see [NewExternalTarget].
//
// The rules get the events of one entity in order. By default they get all events of a partition
// in order; [Parallelism] gives up the second promise to handle several entities at a time.
//
// A rule that fails does not stop the rest: the runner tries its event again, alone, with growing
// pauses, and then parks its entity, see [OnFailure]. [Runner.Parked] lists parked entities and
// [Runner.Retry] brings them back. If a database is down, full, locked or read-only, the runner
// waits for it and blames no event. Targets know the errors of their databases, and [Classify]
// adds others. A rule that returns nil and leaves a transaction that cannot be committed has
// failed too.
//
// The log keeps the events that a projection has yet to read, also while the projection does not
// run: a runner has checkpoints in the log, and pruning deletes nothing above them until
// [Runner.Remove]. Each read model has its own checkpoints. If there are replicas with a database
// each, the log keeps the events that the slowest of them needs. For a model that ends with the
// process, as that of package memorytarget, the log keeps all events. A new version begins at the
// first event that the log still has. If earlier events were deleted, [Status] and a log line at
// its beginning say so.
//
// # When a runner stops
//
// A runner goes on from a position only if the log still has the event at that position, and if
// the rules select the events that the model was built from. Otherwise the runner stops in
// [StateFailed] and skips nothing. The error in its [Status] names the cure:
//
//   - [ErrReplaced]: the log was restored from a backup, and the model is ahead of it. Restore
//     the model too, give the projection a new [Version], or [Runner.Reset] it.
//   - [ErrOtherLog]: this is another log. If it is a copy, [Runner.Adopt] proves that.
//   - [ErrDeleted]: the log deleted events before the projection handled them. A new version, or
//     a reset, begins with the events that are left.
//   - [ErrSelection]: the rules select other events, see [Version]. While a program whose rules
//     select more events keeps the model, the state is [StateStandby].
//
// If the log cannot read an event, because it is damaged, the runner waits before it, tries
// again, and names the position. [Runner.SkipDamaged] makes it pass over the event.
//
// # Reading
//
// The reply to a command has a position, and [WaitFor] waits until the read model
// shows it. [Serving] and [ServingTable] tell a query, in its own transaction,
// which version of the model to read.
//
// # Consumers
//
// [Consume] declares a projection without a read model: its handlers send mail or call other
// services, at least once for each event, and handle several entities at a time. [InLog] keeps
// its notes in the log.
//
// # Rebuilding
//
// Give the changed projection a higher [Version] and run both versions. The runner builds the new
// version beside the old one, in tables of its own: [TableName] adds the version to their names.
// The new version never gets ahead of the old one. [Runner.Status] tells its progress:
// [StateHolding] says that it has reached the position of the old version. [Runner.Switch] makes
// readers use the new version, in one transaction, and can switch back; [Runner.Remove] removes
// the old one. Put effects outside of the database behind [Replaying], so that a rebuild does not
// repeat them. The old program need not run: with [SwitchWhenLive] the new version goes on from
// the position where the old one stopped.
package projection
