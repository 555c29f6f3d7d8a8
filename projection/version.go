package projection

import (
	"context"
	"fmt"
	"strconv"

	"github.com/perdure/perdure/store"
)

// info has the facts for a rule that are not among its arguments.
type info struct {
	version   int
	replaying bool
}

type infoKey struct{}

func infoFrom(ctx context.Context) info {
	i, _ := ctx.Value(infoKey{}).(info)
	return i
}

// TableName returns the name of the table or bucket called base in the version whose rule runs
// with ctx: base, then _v and the version, such as loans_v2. The suffix needs no quotes in SQL.
// Each version has its own tables, so that several versions can exist side by side. Outside of a
// rule TableName panics, because there is no version.
func TableName(ctx context.Context, base string) string {
	i := infoFrom(ctx)
	if i.version == 0 {
		panic("projection: TableName is for rules of a projection; readers use ServingTable")
	}
	return TableOf(base, i.version)
}

// TableOf returns the name that [TableName] returns in the given version.
func TableOf(base string, version int) string { return base + "_v" + strconv.Itoa(version) }

// Replaying reports whether a rule must leave out the effects of its events: another version, or
// this one before a reset, has done them or will do them. Put effects outside of the read model
// behind it:
//
//	if !projection.Replaying(ctx) { … }
//
// Only one version of a projection does the effects of an event: the version that readers use
// (see [Serving]). A version that they do not use replays the events that the serving version has
// handled, and goes no further, so it is never ahead. A switch hands over the remaining effects.
// So every effect is done once, at the switch too. For example, if version 1 has handled 100 of
// 150 events and its program has ended, version 2 replays those 100 events and does the effects
// of the other 50. If the serving version stands still and a caller waits for the other version,
// see [Runner.AtLeast], the other version does the effects before the switch.
//
// "Once" holds as far as a transaction can guarantee it: the note that an effect was done is
// stored with the rows. If the transaction has to run again, an effect outside of it is done
// again too. Events that a parked entity misses stay with the version that parked it. That
// version does their effects when the entity is retried there; a reset or removal of the version
// counts the effects as done.
func Replaying(ctx context.Context) bool { return infoFrom(ctx).replaying }

// Serving returns the version of a projection that readers should read, or zero before there is
// one. Call it in the transaction of the query itself: then a switch happens before or after that
// transaction and never within.
func Serving[Tx any](ctx context.Context, tx Tx, target Target[Tx], name string) (int, error) {
	for n, err := range target.Notes(ctx, tx, servingKey(name)) {
		if err != nil {
			return 0, fmt.Errorf("read serving version of projection %q: %w", name, err)
		}
		if n.Key != servingKey(name) {
			continue
		}
		s, err := decodeServing(n.Value)
		if err != nil {
			return 0, fmt.Errorf("read serving version of projection %q: %w", name, err)
		}
		return s, nil
	}
	return 0, nil
}

// ServingTable returns the name of the table or bucket called base in the version that readers
// should read. See [Serving]. Before there is a version, the error matches [store.ErrNotFound].
func ServingTable[Tx any](ctx context.Context, tx Tx, target Target[Tx], name, base string) (string, error) {
	v, err := Serving(ctx, tx, target, name)
	if err == nil && v == 0 {
		err = fmt.Errorf("%w: projection %q has no version yet", store.ErrNotFound, name)
	}
	if err != nil {
		return "", err
	}
	return TableOf(base, v), nil
}
