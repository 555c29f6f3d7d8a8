package entity

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/store"
)

// takeSnapshot returns a snapshot of the state in memory, or nil.
func (e *Entity) takeSnapshot(c *Call) *store.State {
	if e.opts.Snapshot == nil {
		return e.encodeState(c)
	}
	return e.opts.Snapshot(c, e.Key(), e.version, func() *store.State { return e.encodeState(c) })
}

// encodeState returns a snapshot of the state in memory, or nil if none can be made. A missing
// snapshot only makes the next load slower, so the command is not refused. The shell gets the
// reason through notice.
func (e *Entity) encodeState(c *Call) *store.State {
	if e.foreign {
		e.notice(NoSnapshotForeign, nil)
		return nil
	}
	if n := proto.Size(e.state); n > store.PayloadBytesMax {
		e.notice(NoSnapshotSize, fmt.Errorf("the state has %d bytes, a snapshot may have %d", n, store.PayloadBytesMax))
		return nil
	}
	payload, err := proto.Marshal(e.state)
	if err != nil {
		e.notice(NoSnapshotEncoding, err)
		return nil
	}
	s := &store.State{
		ID: DerivedID(c.ID, snapshotID), Type: e.opts.Rules.StateType, Metadata: c.Metadata,
		Fingerprint: e.opts.Rules.Fingerprint, Payload: payload,
	}
	if e.opts.Rules.Fold != nil {
		s.Fold = e.opts.Rules.Fold()
	}
	s.Metadata.CausationID = c.ID
	return s
}

// notice calls Options.Notice with the reason for a missing snapshot, once while the entity is
// in memory.
func (e *Entity) notice(n Notice, err error) {
	if !e.noticed && e.opts.Notice != nil {
		e.opts.Notice(e.Key(), n, err)
	}
	e.noticed = true
}

// A Notice is the reason why an entity has no snapshot although one is due.
type Notice uint8

// The notices.
const (
	// NoSnapshotSize: the state is larger than a payload may be.
	NoSnapshotSize Notice = iota
	// NoSnapshotForeign: an event holds fields or enum values that this program does not know.
	NoSnapshotForeign
	// NoSnapshotEncoding: the state cannot be encoded.
	NoSnapshotEncoding
)
