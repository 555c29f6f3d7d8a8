package projection

import (
	"context"
	"fmt"
	"strconv"

	"github.com/perdure/perdure/store"
)

// info is what a rule may know beside its arguments.
type info struct {
	version   int
	replaying bool
}

type infoKey struct{}

func infoFrom(ctx context.Context) info {
	i, _ := ctx.Value(infoKey{}).(info)
	return i
}

// TableName returns the name that the table or bucket called base has in the version
// whose rule runs with ctx: base, then _v and the version, such as loans_v2. It is
// as good a name in SQL as base is. Each version has its own, so that versions can
// be there side by side. It panics outside of a rule, because there is no version.
func TableName(ctx context.Context, base string) string {
	i := infoFrom(ctx)
	if i.version == 0 {
		panic("projection: TableName is for rules of a projection; readers use ServingTable")
	}
	return TableOf(base, i.version)
}

// TableOf returns the name that [TableName] returns in a version.
func TableOf(base string, version int) string { return base + "_v" + strconv.Itoa(version) }

// Replaying reports whether the effects of the events that a rule gets are not
// for this version to do: another version, or this one before a reset, has done them
// or will. Effects outside of the read model belong behind it:
//
//	if !projection.Replaying(ctx) { … }
//
// Of all versions of a projection, one does the effects of an event: the version
// that readers use (see [Serving]). A version that they do not use replays what that
// one has handled, and goes no further, so it is never ahead of it. A switch hands
// the rest over. So every effect is done once, at the switch too: if version 1 has
// handled 100 events of 150 and its program is gone, version 2 replays those 100 and
// does the effects of the 50 others. If the version that readers use stands still
// and somebody waits for the other one, see [Runner.AtLeast], that one does the
// effects before the switch.
//
// "Once" is as good as a transaction can make it: the note that an effect was done is
// stored with the rows, so an effect outside of the transaction is done again if the
// transaction is. What a parked entity misses stays with the version that has parked
// it, and has its effects when it is retried there; a reset or removal of that version
// counts it as done.
func Replaying(ctx context.Context) bool { return infoFrom(ctx).replaying }

// Serving returns the version of a projection that readers are to read, or zero
// before there is one. Ask in the transaction of the query itself: then a switch
// comes before or after it and never between.
func Serving[Tx any](ctx context.Context, tx Tx, target Target[Tx], name string) (int, error) {
	for n, err := range target.Notes(ctx, tx, servingKey(name)) {
		if err != nil {
			return 0, fmt.Errorf("serving version of projection %q: %w", name, err)
		}
		if n.Key != servingKey(name) {
			continue
		}
		s, err := decodeServing(n.Value)
		if err != nil {
			return 0, fmt.Errorf("serving version of projection %q: %w", name, err)
		}
		return s, nil
	}
	return 0, nil
}

// ServingTable returns the name of the table or bucket called base in the version
// that readers are to read. See [Serving]. The error matches [store.ErrNotFound]
// before there is one.
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
