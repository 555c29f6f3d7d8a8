package ledger

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Report is the result of an import. Its figures are about the books of the ledger alone, and
// include earlier imports of it. However often an import was stopped, its last report is the same
// except for Resumed and Seconds.
type Report struct {
	Registered    int    `json:"registered"`
	Lent          int    `json:"lent"`
	Returned      int    `json:"returned"`
	LendRefused   int    `json:"lend_refused"`
	ReturnRefused int    `json:"return_refused"`
	Commands      int    `json:"commands"` // the sum of the above
	Events        uint64 `json:"events"`   // the sum of the versions of the books
	Open          int    `json:"open"`     // the books that are out
	Entities      int    `json:"entities"` // the books
	Longest       uint64 `json:"longest"`  // the highest version
	// Digest is the SHA-256 of the lines "book:version" of all books, sorted and joined by line
	// breaks.
	Digest   string  `json:"digest"`
	Rejected int     `json:"rejected_rows"` // rows that make no loan
	Seconds  float64 `json:"seconds"`

	Resumed  int       `json:"-"` // commands that an earlier import has done
	Refusals []Refusal `json:"-"` // the refused commands, in order of time
}

// A Refusal is a command that a book has refused.
type Refusal struct {
	Loan   *Loan
	Return bool  // the command was the return of the loan, not its lending
	Err    error // the reason, see [library.ReasonOf]
}

// At returns the time of the refused command, by the ledger.
func (r *Refusal) At() time.Time {
	if r.Return {
		return r.Loan.ReturnedOn
	}
	return r.Loan.LentOn
}

// newReport sums up the pages.
func newReport(pages []*page) *Report {
	r := &Report{Entities: len(pages), Registered: len(pages)}
	lines := make([]string, 0, len(pages))
	for _, p := range pages {
		r.Lent += p.lent
		r.Returned += p.returned
		r.Refusals = append(r.Refusals, p.refusals...)
		r.Events += uint64(p.version)
		r.Longest = max(r.Longest, uint64(p.version))
		if p.out {
			r.Open++
		}
		lines = append(lines, fmt.Sprintf("%s:%d", p.ref.Key().ID, p.version))
	}
	slices.SortFunc(r.Refusals, func(a, b Refusal) int {
		return cmp.Or(a.At().Compare(b.At()), cmp.Compare(a.Loan.Line, b.Loan.Line))
	})
	for i := range r.Refusals {
		if r.Refusals[i].Return {
			r.ReturnRefused++
		}
	}
	r.LendRefused = len(r.Refusals) - r.ReturnRefused
	r.Commands = r.Registered + r.Lent + r.Returned + len(r.Refusals)
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	r.Digest = hex.EncodeToString(sum[:])
	return r
}
