// Package fingerprint finds out whether two programs fold the events of a kind into the
// same states.
//
// The code of two rules cannot be compared, but their results for samples can. A [Print] is
// a list of questions (for example: which state does an empty state become after this
// event, and after that one?) with the answers that the rules of one program give. A
// snapshot carries the print of the program that made it. Another program compares its own
// answers to the questions that both programs were asked. A question that only one of them
// was asked (about an event type, a field or an enum value that the other does not have) is
// an addition and does not count.
package fingerprint
