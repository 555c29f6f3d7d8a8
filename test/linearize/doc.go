// Package linearize holds the tests that try to break the engine as a whole, with real
// goroutines, real stores and a running clock.
//
// Clients call entities while the store fails, entities are passivated, engines are closed
// and opened, and processes are killed. The calls and answers of all clients are a history.
// Two checkers check each history: one decides in one pass whether it is linearizable (see
// type checker), the other is porcupine, which does not know versions and logs. Other tests
// are about overload, about rules that misbehave, and about many entities over a long time.
//
//	go test ./test/linearize                                  # in the workspace
//	go test ./test/linearize -run Linearizable -seed=7 -v     # the same faults and clients again
//	go test ./test/linearize -run Linearizable -ops=200       # longer
//	go test ./test/linearize -run Overload -overload=10s
//	go test ./test/linearize -run Soak -soak=45s
//
// A seed decides the calls of the clients and the commits that fail, but not the scheduling
// of the goroutines, so a second run with the same seed is similar and not identical.
//
// The package exports nothing.
package linearize
