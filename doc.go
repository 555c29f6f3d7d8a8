// Package perdure runs entities that always exist: event-sourced and durable-state
// actors. Each answer is returned after everything that it is based on is on disk.
//
// A kind is declared from plain functions, one for each message:
//
//	var Books = perdure.EventSourced("book",
//		perdure.Decide(lend),
//		perdure.Evolve(onLent),
//	)
//
// An [Engine] runs the kinds on a store. An entity is never created. To send it a
// message, make a [Ref] from its id:
//
//	book := Books.Ref(engine, "978-0")
//	state, err := book.Ask(ctx, &libraryv1.LendBook{Borrower: "ada"})
//
// When Ask returns, the events of the command are durable, and so is everything that the
// answer was based on.
//
// # Words
//
//   - kind: a type of entity, with its messages and rules.
//   - entity: one thing of a kind, named by its id. It always exists.
//   - ref: the address of one entity.
//   - command: a message that asks an entity to do something.
//   - query: a message that asks an entity a question.
//   - decision: the result of a command: events and other records, or a refusal.
//   - event: a fact about an entity, named in the past tense.
//   - state: the result of applying all events of an entity in order.
//   - version: the number of changes of an entity.
//   - position: the place of an event in the log of all entities.
//   - snapshot: a stored state, from which an entity is loaded instead of from old events.
//   - receipt: the version and position of an entity after a command.
//   - idempotency key: the name of a command for which the entity keeps the receipt, so that a
//     repeated command gets the first answer.
//   - effect, message, timer: work that is stored with a decision and done after its commit.
//   - outbox: the stored messages, effects and timers that are not done yet.
//   - flow: the messages from one source to one target. They are delivered in order.
//   - parked: a message that has failed for good and waits for an operator, who unparks or drops
//     it. A halted message is parked, and the later messages of its flow wait for it.
//   - claim: a value that only one entity may hold, such as an e-mail address.
//   - passivate: to remove an idle entity from memory. Its next message loads it again.
//   - subscription, projection: a reader of the log with a saved position; a read model that
//     follows the log.
//   - checkpoint: the saved position of a reader.
//   - engine: the part of a program that runs entities on a store.
package perdure
