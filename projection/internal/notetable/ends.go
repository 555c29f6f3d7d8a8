package notetable

import "strings"

// endings are the first words of the statements that end a transaction.
var endings = []string{"commit", "rollback", "abort", "end", "prepare"}

// MayEnd reports whether the text of one or more statements may end a transaction. It also finds
// statements in quoted text, and does not skip comments.
func MayEnd(sql string) bool {
	if strings.Contains(sql, "--") || strings.Contains(sql, "/*") {
		return true
	}
	for more := true; more; {
		var statement string
		statement, sql, more = strings.Cut(sql, ";")
		statement = strings.TrimLeft(statement, " \t\r\n\f\v")
		for _, word := range endings {
			if len(statement) >= len(word) && strings.EqualFold(statement[:len(word)], word) {
				return true
			}
		}
	}
	return false
}
