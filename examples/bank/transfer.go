package main

import (
	"context"
	"fmt"

	"github.com/perdure/perdure"
	bankv1 "github.com/perdure/perdure/examples/bank/proto/bank/v1"
	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
)

// Transfers is the kind of all transfers: a process manager, or saga. It is an entity like
// any other. It sends commands to other entities through the outbox, in the commit of the
// event that records the step; the results come back as commands. So after a power failure
// it continues at the step where it was.
//
//	StartTransfer ─► withdraw ──refused──────────────────────► failed
//	                    │ done
//	                    ▼
//	                 deposit ──refused──► refund ──────────────► failed
//	                    │ done               ▲
//	                    ▼                    │ done, but too late
//	                 completed            withdraw
var Transfers = perdure.EventSourced("transfer",
	perdure.Decide(startTransfer), perdure.Decide(onReply), perdure.Decide(onTimeOut),
	perdure.Evolve(onTransferStarted), perdure.Evolve(onTransferLate), perdure.Evolve(onMoneyTaken),
	perdure.Evolve(onRefundStarted), perdure.Evolve(onTransferCompleted), perdure.Evolve(onTransferFailed),
)

// Names of the commands that a transfer sends, and of its timer.
const (
	withdrawal   = "withdrawal"
	depositing   = "deposit"
	refunding    = "refund"
	timeOutTimer = "time-out"
)

func startTransfer(ctx context.Context, t *bankv1.Transfer, c *bankv1.StartTransfer) (*perdure.Decision, error) {
	switch {
	case t.GetStep() != bankv1.Step_STEP_UNSPECIFIED:
		return nil, perdure.Reject(perdure.AlreadyExists, "the transfer has begun")
	case c.GetAmount() <= 0 || c.GetFrom() == c.GetTo():
		return nil, perdure.Reject(perdure.InvalidArgument, "a transfer moves money from one account to another")
	}
	self := perdure.Info(ctx).Key
	d := perdure.Persist(&bankv1.TransferStarted{From: c.GetFrom(), To: c.GetTo(), Amount: c.GetAmount()}).
		EnqueueTo(account(c.GetFrom()), &bankv1.Withdraw{Amount: c.GetAmount(), Transfer: self.ID}, perdure.ReplyTo(withdrawal))
	if patience := c.GetPatience().AsDuration(); patience > 0 {
		d.Schedule(timeOutTimer, perdure.Now(ctx).Add(patience), &bankv1.TimeOut{})
	}
	return d, nil
}

// onReply continues with the result of a command to an account. A reply comes exactly once,
// so the rule needs no guard against a second one.
func onReply(ctx context.Context, t *bankv1.Transfer, r *perdurev1.Reply) (*perdure.Decision, error) {
	refusal := r.GetRefusal() // nil if there is none; perdure.ReplyError makes an error of it
	self := perdure.Info(ctx).Key
	giveBack := func(d *perdure.Decision) *perdure.Decision {
		return d.EnqueueTo(account(t.GetFrom()), &bankv1.Refund{Amount: t.GetAmount(), Transfer: self.ID}, perdure.ReplyTo(refunding))
	}
	switch r.GetName() {
	case withdrawal:
		switch {
		case refusal != nil:
			return failed(t, refusal.GetMessage()), nil
		case t.GetLate():
			return giveBack(perdure.Persist(&bankv1.MoneyTaken{}, &bankv1.RefundStarted{Reason: "it took too long"})), nil
		}
		// From here on the transfer always ends: a time-out could not revoke the deposit.
		return perdure.Persist(&bankv1.MoneyTaken{}).Cancel(timeOutTimer).
			EnqueueTo(account(t.GetTo()), &bankv1.Deposit{Amount: t.GetAmount(), Transfer: self.ID}, perdure.ReplyTo(depositing)), nil
	case depositing:
		if refusal != nil {
			return giveBack(perdure.Persist(&bankv1.RefundStarted{Reason: refusal.GetMessage()})), nil
		}
		return perdure.Persist(&bankv1.TransferCompleted{}).Enqueue(
			&bankv1.Notice{To: t.GetTo(), Text: fmt.Sprintf("You got %s from %s.", cents(t.GetAmount()), t.GetFrom())}), nil
	case refunding:
		return failed(t, t.GetReason()), nil
	}
	return nil, perdure.Reject(perdure.InvalidArgument, "a reply to %q", r.GetName())
}

// failed ends a transfer that leaves the accounts as they were before it.
func failed(t *bankv1.Transfer, reason string) *perdure.Decision {
	return perdure.Persist(&bankv1.TransferFailed{Reason: reason}).Cancel(timeOutTimer).Enqueue(
		&bankv1.Notice{To: t.GetFrom(), Text: fmt.Sprintf("Your transfer of %s to %s has failed: %s.", cents(t.GetAmount()), t.GetTo(), reason)})
}

// onTimeOut gives a transfer up, if that is still possible. The transfer learns from the
// reply whether the money was withdrawn, so the rule only records that it is too late.
func onTimeOut(_ context.Context, t *bankv1.Transfer, _ *bankv1.TimeOut) (*perdure.Decision, error) {
	if t.GetStep() != bankv1.Step_STEP_WITHDRAWING {
		return perdure.None(), nil
	}
	return perdure.Persist(&bankv1.TransferLate{}), nil
}

func onTransferStarted(t *bankv1.Transfer, e *bankv1.TransferStarted) {
	t.From, t.To, t.Amount, t.Step = e.GetFrom(), e.GetTo(), e.GetAmount(), bankv1.Step_STEP_WITHDRAWING
}
func onTransferLate(t *bankv1.Transfer, _ *bankv1.TransferLate) { t.Late = true }
func onMoneyTaken(t *bankv1.Transfer, _ *bankv1.MoneyTaken)     { t.Step = bankv1.Step_STEP_DEPOSITING }

func onRefundStarted(t *bankv1.Transfer, e *bankv1.RefundStarted) {
	t.Step, t.Reason = bankv1.Step_STEP_REFUNDING, e.GetReason()
}

func onTransferCompleted(t *bankv1.Transfer, _ *bankv1.TransferCompleted) {
	t.Step = bankv1.Step_STEP_COMPLETED
}

func onTransferFailed(t *bankv1.Transfer, e *bankv1.TransferFailed) {
	t.Step, t.Reason = bankv1.Step_STEP_FAILED, e.GetReason()
}
