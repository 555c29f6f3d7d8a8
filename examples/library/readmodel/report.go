package readmodel

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
)

// A Book is a row of the catalogue.
type Book struct {
	Book     string `json:"book"`
	Title    string `json:"title"`
	Lent     int    `json:"lent"`
	Borrower string `json:"borrower,omitempty"`
	Loan     string `json:"loan,omitempty"`
	LentOn   string `json:"lent_on,omitempty"`
	Due      string `json:"due,omitempty"`
}

// A Borrower has the number of books that a borrower was lent in all, and the number of
// books that are out.
type Borrower struct {
	Borrower string `json:"borrower"`
	Lent     int    `json:"lent"`
	Out      int    `json:"out"`
}

// A Month has the numbers of loans that began and ended in it.
type Month struct {
	Month    string `json:"month"`
	Lent     int    `json:"lent"`
	Returned int    `json:"returned"`
}

// A Report is the content of the read models at one time. Sections that were not requested
// are nil.
type Report struct {
	Catalogue []Book     `json:"catalogue,omitzero"`
	Borrowers []Borrower `json:"borrowers,omitzero"`
	MostLent  []Book     `json:"most_lent,omitzero"`
	Overdue   []Book     `json:"overdue,omitzero"`
	Months    []Month    `json:"months,omitzero"`
}

// The sections of a report.
const (
	SectionCatalogue = "catalogue"
	SectionBorrowers = "borrowers"
	SectionMostLent  = "most-lent"
	SectionOverdue   = "overdue"
	SectionMonths    = "months"
)

// Sections are the sections of a report, in order.
var Sections = []string{SectionCatalogue, SectionBorrowers, SectionMostLent, SectionOverdue, SectionMonths}

// A Query selects the content of a report.
type Query struct {
	// Section is the name of the only section, or empty for all sections.
	Section string
	// Limit bounds the rows of each section but the months; zero means no bound.
	Limit int
	// Now is the present time: a loan due before it is overdue.
	Now time.Time
}

// Report reads the read models, all in one transaction, so that the sections agree.
func (m *Model) Report(ctx context.Context, q Query) (*Report, error) {
	r := &Report{}
	limit := q.Limit
	if limit == 0 {
		limit = -1
	}
	err := m.target.View(ctx, func(tx *sql.Tx) error {
		for _, s := range Sections {
			if q.Section != "" && q.Section != s {
				continue
			}
			if err := m.section(ctx, tx, r, s, limit, q.Now); err != nil {
				return fmt.Errorf("%s: %w", s, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	return r, nil
}

const bookColumns = "SELECT book, title, lent, coalesce(borrower, ''), coalesce(loan, ''), coalesce(lent_on, ''), coalesce(due, '') FROM %s "

func (m *Model) section(ctx context.Context, tx *sql.Tx, r *Report, section string, limit int, now time.Time) (err error) {
	switch section {
	case SectionCatalogue:
		r.Catalogue, err = rows(ctx, tx, m, Books, scanBook, bookColumns+"ORDER BY book LIMIT ?", limit)
	case SectionBorrowers:
		r.Borrowers, err = rows(ctx, tx, m, Borrowers, func(r *sql.Rows, b *Borrower) error {
			return r.Scan(&b.Borrower, &b.Lent, &b.Out)
		}, "SELECT borrower, lent, out FROM %s ORDER BY lent DESC, borrower LIMIT ?", limit)
	case SectionMostLent:
		r.MostLent, err = rows(ctx, tx, m, Books, scanBook, bookColumns+"WHERE lent > 0 ORDER BY lent DESC, book LIMIT ?", limit)
	case SectionOverdue:
		r.Overdue, err = rows(ctx, tx, m, Books, scanBook, bookColumns+"WHERE due < ? ORDER BY due, book LIMIT ?", Time(now), limit)
	case SectionMonths:
		r.Months, err = rows(ctx, tx, m, Months, func(r *sql.Rows, o *Month) error {
			return r.Scan(&o.Month, &o.Lent, &o.Returned)
		}, "SELECT month, lent, returned FROM %s ORDER BY month")
	}
	return err
}

func scanBook(r *sql.Rows, b *Book) error {
	return r.Scan(&b.Book, &b.Title, &b.Lent, &b.Borrower, &b.Loan, &b.LentOn, &b.Due)
}

// rows reads the table of the version that readers use. If there is no version yet, it
// returns no rows.
func rows[R any](ctx context.Context, tx *sql.Tx, m *Model, name string, scan func(*sql.Rows, *R) error, statement string, args ...any) (all []R, err error) {
	all = []R{}
	table, err := projection.ServingTable(ctx, tx, m.target, name, name)
	if errors.Is(err, store.ErrNotFound) {
		return all, nil
	}
	if err != nil {
		return nil, err
	}
	found, err := tx.QueryContext(ctx, fmt.Sprintf(statement, table), args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, found.Close()) }()
	for found.Next() {
		var row R
		if err := scan(found, &row); err != nil {
			return nil, err
		}
		all = append(all, row)
	}
	return all, found.Err()
}
