package perdure

import (
	"sync/atomic"

	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/store"
)

// snapshotNotices counts the log records about the snapshots of a kind. The first of each sort
// is logged when it happens. The totals are logged when the engine is closed.
type snapshotNotices struct {
	taken   atomic.Int64
	foreign atomic.Int64
}

// took is called for an entity that was loaded from a snapshot of another fold, because the
// events below it cannot be folded.
func (k *registry) took(key store.Key, version store.Version) {
	if k.notices.taken.Add(1) > 1 {
		return
	}
	k.engine.config.Logger.Warn("snapshot of other rules is taken as it is, because the events below it are deleted or have no rule; "+
		"a change of rules does not apply to them", "kind", key.Kind, "entity", key.String(), "version", uint64(version))
}

// unsnapped is called for an entity that gets no snapshot although one is due, once while the
// entity is in memory.
func (k *registry) unsnapped(key store.Key, why entity.Notice, err error) {
	log := k.engine.config.Logger
	switch why {
	case entity.NoSnapshotForeign:
		if k.notices.foreign.Add(1) == 1 {
			log.Warn("entities are kept without snapshots, and their events are not deleted, because these hold fields or values of enums "+
				"that this program does not know: another version has stored them, or they should be declared reserved",
				"kind", key.Kind, "entity", key.String())
		}
	default:
		log.Warn("entity is kept without snapshots from now on, and its events are not deleted", "entity", key.String(), "error", err)
	}
}

// summarize logs the totals of the records that were logged once.
func (k *registry) summarize() {
	taken, foreign := k.notices.taken.Load(), k.notices.foreign.Load()
	if taken > 1 || foreign > 1 {
		k.engine.config.Logger.Warn("snapshots while the engine was open", "kind", k.options.Rules.Kind,
			"taken from other rules", taken, "not written because of unknown fields", foreign)
	}
}
