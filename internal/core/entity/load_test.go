package entity_test

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/core/entity"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
)

// TestFold checks the state that a load makes of the snapshots that it is offered, newest
// first, and of the events after them. Every event is worth 1, every snapshot 100 times its
// version.
func TestFold(t *testing.T) {
	t.Parallel()
	type snapshot struct {
		version   store.Version
		judgement entity.Judgement
	}
	const same, other, unreadable = entity.SnapshotSame, entity.SnapshotOther, entity.SnapshotUnreadable
	for name, tt := range map[string]struct {
		offered     []snapshot
		first, last store.Version // range of stored events
		want        int64
		taken       store.Version
		err         error
	}{
		"takes_the_newest_snapshot_of_the_same_fold":             {[]snapshot{{6, same}, {4, same}}, 7, 8, 602, 0, nil},
		"prefers_an_older_snapshot_of_the_same_fold":             {[]snapshot{{6, other}, {4, same}}, 5, 8, 404, 0, nil},
		"builds_from_all_events_where_no_snapshot_is_of_it":      {[]snapshot{{6, other}, {4, other}}, 1, 8, 8, 0, nil},
		"builds_from_all_events_where_no_snapshot_can_be_read":   {[]snapshot{{6, unreadable}, {4, other}}, 1, 8, 8, 0, nil},
		"takes_the_newest_of_another_fold_below_deleted_events":  {[]snapshot{{6, other}, {4, other}}, 3, 8, 602, 6, nil},
		"takes_one_that_the_first_event_comes_right_after":       {[]snapshot{{6, other}}, 7, 8, 602, 6, nil},
		"takes_one_that_covers_all_events":                       {[]snapshot{{8, other}}, 8, 8, 800, 8, nil},
		"takes_one_above_which_there_is_nothing":                 {[]snapshot{{8, other}}, 9, 8, 800, 8, nil},
		"takes_an_older_one_where_the_newest_cannot_be_read":     {[]snapshot{{6, unreadable}, {4, other}}, 3, 8, 404, 4, nil},
		"refuses_one_that_cannot_be_read_below_deleted_events":   {[]snapshot{{6, unreadable}}, 3, 8, 0, 0, entity.ErrSnapshot},
		"refuses_one_that_cannot_be_read_above_which_is_nothing": {[]snapshot{{8, unreadable}}, 9, 8, 0, 0, entity.ErrSnapshot},
		"finds_a_gap_behind_a_snapshot_of_another_fold":          {[]snapshot{{4, other}}, 7, 8, 0, 0, store.ErrCorrupt},
		"finds_a_gap_where_there_is_no_snapshot":                 {nil, 3, 8, 0, 0, store.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, account, nil)
			rules := *l.options.Rules
			l.options.Rules = &rules
			rules.Judge = func(s *store.State) entity.Judgement { return entity.Judgement(s.Fingerprint) }
			fold := l.core.Load()
			for _, s := range tt.offered {
				payload, err := proto.Marshal(&testv1.Account{Balance: 100 * int64(s.version)})
				if err != nil {
					t.Fatal(err)
				}
				if fold.Accept(&store.State{Type: rules.StateType, Version: s.version, Fingerprint: uint64(s.judgement), Payload: payload}) {
					break
				}
			}
			payload, err := proto.Marshal(&testv1.Deposited{Amount: 1})
			if err != nil {
				t.Fatal(err)
			}
			for v := tt.first; v <= tt.last && err == nil; v++ {
				err = fold.Apply(&store.Event{Type: "perdure.test.v1.Deposited", Version: v, Payload: payload})
			}
			c := &entity.Call{Ctx: t.Context(), Op: entity.OpState}
			l.core.Deliver(c)
			l.core.Loaded(fold, err)
			l.drive()
			if tt.err != nil {
				if c.Outcome.Status != entity.StatusFault || !errors.Is(c.Outcome.Err, tt.err) || errors.Is(c.Outcome.Err, store.ErrCorrupt) != errors.Is(tt.err, store.ErrCorrupt) {
					t.Errorf("got status %d and %v, want %v", c.Outcome.Status, c.Outcome.Err, tt.err)
				}
				return
			}
			if s, ok := c.Outcome.State.(*testv1.Account); !ok || s.GetBalance() != tt.want || c.Outcome.Version != tt.last || fold.FallbackVersion() != tt.taken {
				t.Errorf("got %v at version %d and %d taken (%v), want balance %d at %d and %d taken",
					c.Outcome.State, c.Outcome.Version, fold.FallbackVersion(), c.Outcome.Err, tt.want, tt.last, tt.taken)
			}
		})
	}
}
