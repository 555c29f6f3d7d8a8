package main

import (
	"cmp"
	"encoding/json"
	"slices"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/examples/library/notice"
)

func (a *app) noticesCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "notices",
		Short: "Show the reminders of overdue loans that were written",
		Long: `Notices shows the reminders of overdue loans that were written, after those that
are due by now.

A book that is lent for a stated time sets a timer to the day on which it is
due. A return cancels the timer. When it fires, a line is added to a file:
notices.txt beside the log, or what --notices says. Each loan is reminded of
once. A timer fires while any command runs, or with the next one.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			return a.withLibrary(ctx, func(engine *perdure.Engine) error {
				if err := a.settle(ctx, engine); err != nil {
					return err
				}
				return a.printNotices("", asJSON)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print each reminder as a line of JSON")
	return c
}

// printNotices prints the reminders sorted by the day on which the loan was due, because their
// order in the file varies.
func (a *app) printNotices(indent string, asJSON bool) error {
	all, err := a.notices.All()
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b notice.Notice) int {
		return cmp.Or(cmp.Compare(a.Due, b.Due), cmp.Compare(a.Book, b.Book))
	})
	t := &table{}
	t.row("due", "book", "borrower", "loan", "title")
	for i := range all {
		n := &all[i]
		if asJSON {
			if err := a.printNoticeJSON(n); err != nil {
				return err
			}
			continue
		}
		t.row(n.Due, shorten(n.Book, idWidth), n.Borrower, n.Loan, shorten(n.Title, titleWide))
	}
	if !asJSON {
		t.print(a.out, indent)
	}
	return nil
}

func (a *app) printNoticeJSON(n *notice.Notice) error {
	return json.NewEncoder(a.out.w).Encode(struct {
		ID       string `json:"id"`
		Due      string `json:"due"`
		LentOn   string `json:"lent_on"`
		Book     string `json:"book"`
		Loan     string `json:"loan"`
		Borrower string `json:"borrower"`
		Title    string `json:"title"`
	}{n.ID.String(), n.Due, n.LentOn, n.Book, n.Loan, n.Borrower, n.Title})
}
