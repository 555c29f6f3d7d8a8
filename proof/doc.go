// Package proof holds the tests that try to break the engine as a whole: real
// goroutines, real stores, a clock that runs.
//
// Clients call entities while the store fails, entities are passivated, engines
// are closed and opened and processes are killed. What each client has seen is a
// history, and histories are judged: by a checker that decides in one pass
// whether they are linearizable (see type judge), and by porcupine, which knows
// nothing of versions and logs. Beside them are tests of overload, of rules that
// do the worst, and of many entities for a long time.
//
//	go test ./proof                                  # in the workspace
//	go test ./proof -run Linearizable -seed=7 -v     # the same faults and clients again
//	go test ./proof -run Linearizable -ops=200       # longer
//	go test ./proof -run Overload -overload=10s
//	go test ./proof -run Soak -soak=45s
//
// A seed decides what the clients do and which commits fail, but not how the
// goroutines take turns: a run can be repeated as far as a real run can.
//
// The package has nothing to import.
package proof
