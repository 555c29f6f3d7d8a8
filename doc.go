// Package perdure keeps entities that always exist: event-sourced and
// durable-state actors whose every answer is already safe on disk.
//
// A kind is declared from plain functions, one per message:
//
//	var Books = perdure.EventSourced("book",
//		perdure.Decide(lend),
//		perdure.Evolve(onLent),
//	)
//
// An [Engine] runs the kinds on a store. An entity is never created; a [Ref]
// is all it takes to talk to it:
//
//	book := Books.Ref(engine, "978-0")
//	state, err := book.Ask(ctx, &libraryv1.LendBook{Borrower: "ada"})
//
// When Ask returns, the events of the command are durable, and so is
// everything that the answer was based on.
//
// # Words
//
//   - kind: a sort of entity, with its messages and rules.
//   - entity: one thing of a kind, named by its id. It always exists.
//   - ref: the address of one entity.
//   - command: a message that asks an entity to do something.
//   - query: a message that asks an entity a question.
//   - decision: what an entity makes of a command: events, or a refusal.
//   - event: a fact about an entity, named in the past tense.
//   - state: what all events of an entity add up to.
//   - version: the number of changes of an entity.
//   - position: the place of an event in the log of all entities.
//   - snapshot: a stored state that saves reading old events.
//   - receipt: what a caller may know of a command: version and position.
//   - effect, outbox, timer: work that is left for after the commit.
//   - projection: a read model that follows the log.
//   - engine: what runs entities on a store.
//   - node: a machine of a cluster.
//   - actor, mailbox: what an entity runs on, see package actor.
//   - parent, guardian, path, watch: how actors know each other.
//   - strategy, directive: what is done about an actor that has failed.
//   - dead letter: a message to an actor that nobody handles any more.
//   - stash, middleware: messages kept for later; code around a behavior.
package perdure
