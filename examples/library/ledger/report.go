package ledger

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Report is the result of an import. Its figures are about the books of the ledger alone,
// not about other records of the log, and they include earlier runs of the same import.
// However often an import was stopped, its final report is the same except for Resumed and
// Seconds.
type Report struct {
	Registered, Lent, Returned int
	// Refusals are the refused commands, in order of time.
	Refusals []Refusal
	// Events is the sum of the versions of the books, Longest the highest.
	Events, Longest uint64
	// Entities is the number of books, Open the number of books that are out.
	Entities, Open int
	// Digest is the SHA-256 of the lines "book:version" of all books, sorted
	// and joined by line breaks.
	Digest string
	// Rejected is the number of rows that made no loan.
	Rejected int
	// Resumed is the number of commands that an earlier run had done.
	Resumed int
	Seconds float64
}

// newReport sums up the results of the lanes.
func newReport(lanes []*lane) *Report {
	r := &Report{Entities: len(lanes), Registered: len(lanes)}
	lines := make([]string, 0, len(lanes))
	for _, l := range lanes {
		r.Lent += l.lent
		r.Returned += l.returned
		r.Refusals = append(r.Refusals, l.refusals...)
		r.Events += uint64(l.version)
		r.Longest = max(r.Longest, uint64(l.version))
		if l.out {
			r.Open++
		}
		lines = append(lines, fmt.Sprintf("%s:%d", l.shelf.book, l.version))
	}
	sortRefusals(r.Refusals)
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	r.Digest = hex.EncodeToString(sum[:])
	return r
}

// Commands returns the number of commands, including those of earlier runs.
func (r *Report) Commands() int { return r.Registered + r.Lent + r.Returned + len(r.Refusals) }

// Rate returns the number of commands that this run sent per second.
func (r *Report) Rate() float64 {
	return float64(r.Commands()-r.Resumed) / max(r.Seconds, time.Microsecond.Seconds())
}

// Refused returns the numbers of refused lendings and returns.
func (r *Report) Refused() (lendings, returns int) {
	for i := range r.Refusals {
		if r.Refusals[i].Return {
			returns++
		} else {
			lendings++
		}
	}
	return lendings, returns
}

// MarshalJSON writes the figures of the report, for programs.
func (r *Report) MarshalJSON() ([]byte, error) {
	lendings, returns := r.Refused()
	return json.Marshal(struct {
		Registered    int     `json:"registered"`
		Lent          int     `json:"lent"`
		Returned      int     `json:"returned"`
		LendRefused   int     `json:"lend_refused"`
		ReturnRefused int     `json:"return_refused"`
		Commands      int     `json:"commands"`
		Events        uint64  `json:"events"`
		Open          int     `json:"open"`
		Entities      int     `json:"entities"`
		Longest       uint64  `json:"longest"`
		Digest        string  `json:"digest"`
		RejectedRows  int     `json:"rejected_rows"`
		Seconds       float64 `json:"seconds"`
	}{
		r.Registered, r.Lent, r.Returned, lendings, returns, r.Commands(), r.Events,
		r.Open, r.Entities, r.Longest, r.Digest, r.Rejected, r.Seconds,
	})
}
