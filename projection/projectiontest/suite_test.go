package projectiontest_test

import (
	"context"
	"errors"
	"testing"

	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/memorytarget"
	"github.com/perdure/perdure/projection/projectiontest"
	"github.com/perdure/perdure/store"
)

// A model is a read model in memory.
type model struct {
	values memorytarget.Table[string, string]
}

func TestMemoryPasses(t *testing.T) {
	t.Parallel()
	projectiontest.Run(t, func(t testing.TB) projection.Target[*model] {
		m, err := memorytarget.New(model{})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}, projectiontest.Features[*model]{
		Put: func(_ context.Context, tx *model, key, value string) error {
			tx.values.Put(key, value)
			return nil
		},
		Get: func(_ context.Context, tx *model, key string) (string, bool, error) {
			value, ok := tx.values.Get(key)
			return value, ok, nil
		},
	})
}

var errCommit = errors.New("the answer is lost")

// features are the features of a plain target, with everything that a durable target has.
var features = projectiontest.Features[*plainTx]{
	Put: func(_ context.Context, tx *plainTx, key, value string) error {
		if tx.view {
			return errors.New("a view stores nothing")
		}
		tx.values[key] = value
		return nil
	},
	Get: func(_ context.Context, tx *plainTx, key string) (string, bool, error) {
		value, ok := tx.values[key]
		return value, ok, nil
	},
	Reopen: func(_ testing.TB, target projection.Target[*plainTx]) projection.Target[*plainTx] {
		return target.(*plain).reopen()
	},
	Another: func(_ testing.TB, target projection.Target[*plainTx]) projection.Target[*plainTx] {
		return target.(*plain).reopen()
	},
	FailCommit: func(_ testing.TB, target projection.Target[*plainTx], stored bool) {
		p := target.(*plain)
		if p.fail = errCommit; !stored {
			p.fail = errors.Join(errCommit, store.ErrNotStored)
		}
	},
	Misuses: []projectiontest.Misuse[*plainTx]{
		{Name: "spoils it", Do: func(_ context.Context, tx *plainTx) { tx.spoilt = true }},
		{Name: "does nothing", Do: func(context.Context, *plainTx) {}, Harmless: true},
	},
	Faults: []error{errFull}, Failures: []error{errRow},
}

func TestTargetWithoutOptionsPasses(t *testing.T) {
	t.Parallel()
	projectiontest.Run(t, func(testing.TB) projection.Target[*plainTx] { return newPlain(twist{}) }, features)
}
