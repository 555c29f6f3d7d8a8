// Package canary breaks promises on purpose. At the places that decide whether a
// promise is kept, the code asks whether its broken twin is switched on:
//
//	if canary.Broken("crc-off") {
//
// In a real build the answer is a constant and nothing of it is left. Built with
// the tag canary it is true for the one twin that the environment variable
// PERDURE_CANARY names. The file twins.txt lists each twin with the test that
// must fail then; `make canary` runs them, so a test that proves nothing any more
// is itself found.
package canary
