// Package fingerprint finds out whether two programs fold the events of a kind
// into the same states.
//
// The code of a rule cannot be compared, but what it does to samples can. A
// [Print] is a list of questions (such as: what becomes of an empty state after
// this event, and after that one?) with the answers that the rules of one program
// give. A snapshot carries the print of the program that made it. Another program
// compares the answers to those questions that can be put to both: what only one
// of them knows (an event type, a field, a value of an enum) is an addition and
// does not count.
package fingerprint
