package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/perdure/perdure"
	bankv1 "github.com/perdure/perdure/examples/bank/proto/bank/v1"
	"github.com/perdure/perdure/store"
)

// Accounts is the kind of all accounts. An account does not know transfers. It only stores,
// with each movement, the id of the transfer that the movement belongs to.
var Accounts = perdure.EventSourced("account",
	perdure.Decide(openAccount), perdure.Decide(withdraw), perdure.Decide(deposit),
	perdure.Decide(refund), perdure.Decide(closeAccount), perdure.Decide(payInterest),
	perdure.Evolve(onAccountOpened), perdure.Evolve(onWithdrawn), perdure.Evolve(onDeposited),
	perdure.Evolve(onRefunded), perdure.Evolve(onAccountClosed), perdure.Evolve(onInterestPaid),
)

// account is the key of an account, for messages to it.
func account(id string) store.Key { return store.Key{Kind: "account", ID: id} }

// openAccount sets the recurring timer for the first time, if the account pays interest.
func openAccount(ctx context.Context, a *bankv1.Account, c *bankv1.OpenAccount) (*perdure.Decision, error) {
	if a.GetOwner() != "" {
		return nil, perdure.Reject(perdure.AlreadyExists, "the account is open")
	}
	if c.GetOwner() == "" || c.GetBalance() < 0 {
		return nil, perdure.Reject(perdure.InvalidArgument, "an account has an owner and no debts")
	}
	d := perdure.Persist(&bankv1.AccountOpened{Owner: c.GetOwner(), Balance: c.GetBalance(), Interest: c.GetInterest()})
	if every := c.GetInterest().GetEvery().AsDuration(); every > 0 {
		due := perdure.Now(ctx).Add(every)
		d.Schedule(interestTimer, due, &bankv1.PayInterest{Due: timestamppb.New(due)})
	}
	return d, nil
}

const interestTimer = "interest"

// payInterest is the command of the timer. It sets the timer again, in the same commit as
// the payment: there is no time at which interest is paid and the next payment is not
// scheduled.
//
// The next time is counted from the due time of this payment, not from now. After a
// downtime all missed payments are made, one after another.
func payInterest(_ context.Context, a *bankv1.Account, c *bankv1.PayInterest) (*perdure.Decision, error) {
	if a.GetClosed() {
		return perdure.None(), nil // the timer is not set again
	}
	next := c.GetDue().AsTime().Add(a.GetInterest().GetEvery().AsDuration())
	amount := a.GetBalance() * a.GetInterest().GetRate() / 1_000_000
	return perdure.Persist(&bankv1.InterestPaid{Amount: amount}).
		Enqueue(&bankv1.Notice{To: a.GetOwner(), Text: fmt.Sprintf("Interest for %s: %s.", c.GetDue().AsTime().Format(time.DateOnly), cents(amount))}).
		Schedule(interestTimer, next, &bankv1.PayInterest{Due: timestamppb.New(next)}), nil
}

func withdraw(_ context.Context, a *bankv1.Account, c *bankv1.Withdraw) (*perdure.Decision, error) {
	if a.GetBalance() < c.GetAmount() {
		return nil, perdure.Reject(perdure.FailedPrecondition, "there are only %s", cents(a.GetBalance()))
	}
	return perdure.Persist(&bankv1.Withdrawn{Amount: c.GetAmount(), Transfer: c.GetTransfer()}), nil
}

func deposit(_ context.Context, a *bankv1.Account, c *bankv1.Deposit) (*perdure.Decision, error) {
	switch {
	case a.GetOwner() == "":
		return nil, perdure.Reject(perdure.NotFound, "there is no such account")
	case a.GetClosed():
		return nil, perdure.Reject(perdure.FailedPrecondition, "the account is closed")
	}
	return perdure.Persist(&bankv1.Deposited{Amount: c.GetAmount(), Transfer: c.GetTransfer()}), nil
}

// refund is a compensation, and a compensation must not be refused, because the money would
// then be in neither account. So a closed account accepts it too.
func refund(_ context.Context, _ *bankv1.Account, c *bankv1.Refund) (*perdure.Decision, error) {
	return perdure.Persist(&bankv1.Refunded{Amount: c.GetAmount(), Transfer: c.GetTransfer()}), nil
}

func closeAccount(_ context.Context, a *bankv1.Account, _ *bankv1.CloseAccount) (*perdure.Decision, error) {
	if a.GetOwner() == "" {
		return nil, perdure.Reject(perdure.NotFound, "there is no such account")
	}
	if a.GetClosed() {
		return perdure.None(), nil
	}
	return perdure.Persist(&bankv1.AccountClosed{}).Cancel(interestTimer), nil
}

func onAccountOpened(a *bankv1.Account, e *bankv1.AccountOpened) {
	a.Owner, a.Balance, a.Interest = e.GetOwner(), e.GetBalance(), e.GetInterest()
}
func onWithdrawn(a *bankv1.Account, e *bankv1.Withdrawn)         { a.Balance -= e.GetAmount() }
func onDeposited(a *bankv1.Account, e *bankv1.Deposited)         { a.Balance += e.GetAmount() }
func onRefunded(a *bankv1.Account, e *bankv1.Refunded)           { a.Balance += e.GetAmount() }
func onAccountClosed(a *bankv1.Account, _ *bankv1.AccountClosed) { a.Closed = true }
func onInterestPaid(a *bankv1.Account, e *bankv1.InterestPaid)   { a.Balance += e.GetAmount() }

// cents prints an amount.
func cents(amount int64) string { return fmt.Sprintf("%d.%02d", amount/100, amount%100) }
