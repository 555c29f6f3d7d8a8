// Package canary switches mutants on: faults that break a promise on purpose, to test the
// tests. At the places that decide whether a promise is kept, the code asks whether a
// mutant is switched on:
//
//	if canary.Broken("crc-off") {
//
// In a real build the answer is the constant false, and the compiler removes the branch.
// With the build tag canary it is true for the one mutant that the environment variable
// PERDURE_CANARY names. The file twins.txt lists each mutant with the test that must fail;
// `make canary` runs them, so a test that proves nothing is found.
package canary
