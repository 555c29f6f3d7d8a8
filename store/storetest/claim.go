package storetest

import (
	"errors"
	"fmt"
	"time"

	"github.com/perdure/perdure/store"
)

var (
	ada   = store.Claim{Space: "address", Value: "ada@example.org"}
	grace = store.Claim{Space: "address", Value: "grace@example.org"}
)

var claimCases = []testCase{
	{name: "a claimed value has its owner", run: func(x *fixture) {
		r := x.commit(&store.Batch{Key: book("a"), Claim: []store.Claim{ada}})
		want(x, "owner", x.owner(ada), book("a"))
		want(x, "claims", x.claims("address"), []store.Claimed{{Claim: ada, Owner: book("a"), Time: r.Time.UTC()}})
	}},
	{name: "a value that nobody has claimed has no owner", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Claim: []store.Claim{ada}})
		for _, c := range []store.Claim{grace, {Space: "addr", Value: ada.Value}, {Space: ada.Space, Value: "ada"}} {
			_, err := x.log.Owner(x.ctx, c)
			x.wantError(fmt.Sprintf("owner of %+v", c), err, store.ErrNotFound)
		}
		want(x, "number of claims of another space", len(x.claims("addr")), 0)
	}},
	{name: "a value that another entity holds refuses the whole batch", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Claim: []store.Claim{ada}})
		r := x.try(&store.Batch{Key: book("b"), Events: x.events("no"), Claim: []store.Claim{grace, ada}})
		x.wantClaimed(r.Err, ada, book("a"))
		want(x, "owner", x.owner(grace), store.Key{})
		x.wantVersion(book("b"), 0)
	}},
	{name: "a batch behind one that lost a claim is refused with it", run: func(x *fixture) {
		results := x.group(
			&store.Batch{Key: book("a"), Claim: []store.Claim{ada}},
			&store.Batch{Key: book("b"), Events: x.events("no"), Claim: []store.Claim{ada}},
			&store.Batch{Key: book("b"), Expected: 1, Events: x.events("behind")},
		)
		want(x, "error of the first", results[0].Err, nil)
		x.wantClaimed(results[1].Err, ada, book("a"))
		x.wantConflict("third", results[2].Err, store.ConflictError{Key: book("b"), Expected: 1, AfterRefused: true})
	}},
	{name: "a value that the entity holds already is no error", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Claim: []store.Claim{ada, ada}})
		x.commit(&store.Batch{Key: book("a"), Claim: []store.Claim{ada}, Events: x.events("e")})
		want(x, "owner", x.owner(ada), book("a"))
		want(x, "number of claims", len(x.claims("address")), 1)
	}},
	{name: "a released value is free", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Claim: []store.Claim{ada, grace}})
		x.commit(&store.Batch{Key: book("a"), Release: []store.Claim{ada}})
		want(x, "owner", x.owner(ada), store.Key{})
		x.commit(&store.Batch{Key: book("b"), Claim: []store.Claim{ada}})
		want(x, "owner", x.owner(ada), book("b"))
		want(x, "owner of the other value", x.owner(grace), book("a"))
	}},
	{name: "releasing a value that the entity does not hold is ignored", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Claim: []store.Claim{ada}})
		x.commit(&store.Batch{Key: book("b"), Release: []store.Claim{ada, grace}, Events: x.events("e")})
		want(x, "owner", x.owner(ada), book("a"))
	}},
	{name: "a batch cannot take a value by releasing it for another", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Claim: []store.Claim{ada}})
		r := x.try(&store.Batch{Key: book("b"), Release: []store.Claim{ada}, Claim: []store.Claim{ada}})
		x.wantClaimed(r.Err, ada, book("a"))
		want(x, "owner", x.owner(ada), book("a"))
	}},
	{name: "a value that a batch releases can be claimed by the same batch", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Claim: []store.Claim{ada}})
		x.commit(&store.Batch{Key: book("a"), Release: []store.Claim{ada}, Claim: []store.Claim{ada, grace}})
		want(x, "owner", x.owner(ada), book("a"))
		want(x, "owner", x.owner(grace), book("a"))
	}},
	{name: "a value that one batch of a group releases can be claimed by the next", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Claim: []store.Claim{ada}})
		results := x.group(
			&store.Batch{Key: book("a"), Release: []store.Claim{ada}},
			&store.Batch{Key: book("b"), Claim: []store.Claim{ada}},
		)
		want(x, "error of the second", results[1].Err, nil)
		want(x, "owner", x.owner(ada), book("b"))
	}},
	{name: "claims of a refused batch are neither taken nor released", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Claim: []store.Claim{ada}})
		x.try(&store.Batch{Key: book("a"), Expected: 1, Release: []store.Claim{ada}, Claim: []store.Claim{grace}})
		want(x, "owner", x.owner(ada), book("a"))
		want(x, "owner", x.owner(grace), store.Key{})
	}},
	{name: "the same value in two spaces is two values", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Claim: []store.Claim{{Space: "s", Value: "v"}, {Space: "s2", Value: "v"}}})
		x.commit(&store.Batch{Key: book("b"), Claim: []store.Claim{{Space: "s1", Value: "v"}, {Space: "s", Value: "v1"}}})
		x.commit(&store.Batch{Key: book("a"), Release: []store.Claim{{Space: "s", Value: "v"}}})
		want(x, "owner", x.owner(store.Claim{Space: "s2", Value: "v"}), book("a"))
		want(x, "owner", x.owner(store.Claim{Space: "s1", Value: "v"}), book("b"))
		want(x, "number of claims in s", len(x.claims("s")), 1)
	}},
	{name: "claims are sorted by value in byte order", run: func(x *fixture) {
		for i := range oddIDs {
			c := store.Claim{Space: "odd", Value: oddIDs[(i*17)%len(oddIDs)]} // not in the order of their values
			x.commit(&store.Batch{Key: book(fmt.Sprint(i)), Claim: []store.Claim{c}})
		}
		var values []string
		for _, c := range x.claims("odd") {
			values = append(values, c.Claim.Value)
			want(x, "space", c.Claim.Space, "odd")
			want(x, "location of the time", c.Time.Location(), time.UTC)
		}
		want(x, "values", values, oddIDs)
	}},
	{name: "an entity may hold many values and a space may have many owners", run: func(x *fixture) {
		values := numbered("%04d", 600)
		for i, v := range values {
			x.commit(&store.Batch{Key: book(fmt.Sprint(i % 3)), Claim: []store.Claim{{Space: "s", Value: v}}})
		}
		held := x.claims("s")
		want(x, "number of claims", len(held), len(values))
		for i, c := range held {
			want(x, "claim", c.Claim.Value, values[i])
			want(x, "owner", c.Owner, book(fmt.Sprint(i%3)))
		}
	}},
	{name: "of sixteen entities that claim one value at once one wins", run: func(x *fixture) {
		for round := range 5 {
			c := store.Claim{Space: "race", Value: fmt.Sprint(round)}
			winners := race(x, 16, func(i int) error {
				return x.tryFrom(&store.Batch{
					Key: book(fmt.Sprint(round, "-", i)), Events: x.events("won"), Claim: []store.Claim{c},
				})
			}, store.ErrClaimed)
			want(x, "winners", winners, 1)
			x.wantVersion(x.owner(c), 1)
			want(x, "events", len(x.scan(store.Query{})), round+1)
		}
	}},
	{name: "reading claims can end early", run: func(x *fixture) {
		x.commit(&store.Batch{Key: book("a"), Claim: []store.Claim{ada, grace}})
		for _, err := range x.log.Claims(x.ctx, "address") {
			x.wantNoError("claims", err)
			break
		}
		x.append(book("a"), 0, "one") // an iteration that was broken off holds no lock
	}},
}

// wantClaimed fails unless err names the owner of the value.
func (x *fixture) wantClaimed(err error, c store.Claim, owner store.Key) {
	x.Helper()
	x.wantError("result", err, store.ErrClaimed)
	if held, ok := errors.AsType[*store.ClaimedError](err); ok {
		want(x, "error", *held, store.ClaimedError{Claim: c, Owner: owner})
	} else {
		x.Errorf("result: got a %T, want a *store.ClaimedError", err)
	}
}
