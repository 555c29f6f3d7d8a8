package projection

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/core/projector"
	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
	"github.com/perdure/perdure/store"
)

// The keys of the notes of a projection. Each note is a message of
// proto/perdure/v1 with a checksum, see store.Seal.
//
//	<name>/serving
//	<name>/v<version>/about
//	<name>/v<version>/segment/<partition>/<segment>
//	<name>/v<version>/parked/<partition>/<segment>/<length of kind>/<kind>/<id>
//	<name>/v<version>/dead/<partition>/<segment>/<sequence>
//	<name>/v<version>/damaged/<partition>/<sequence>
//	<name>/done/about
//	<name>/done/segment/<partition>/<segment>
//
// The last two are the notes of the version that served last, after its removal: they tell which
// events have had their effects.
const notesPrefix = "projection/"

func servingKey(name string) string { return notesPrefix + name + "/serving" }

// donePrefix is the prefix of the notes that the version that served last has left behind.
func donePrefix(name string) string { return notesPrefix + name + "/done/" }

func versionsPrefix(name string) string { return notesPrefix + name + "/v" }

func versionPrefix(name string, version int) string {
	return fmt.Sprintf("%s%d/", versionsPrefix(name), version)
}

// A segmentID names a segment of a version.
type segmentID struct{ partition, segment int }

func (l segmentID) String() string { return fmt.Sprintf("%04d/%04d", l.partition, l.segment) }

// keys are the keys of a segment's notes.
type keys struct{ segment, parked, dead string }

func keysOf(name string, version int, l segmentID) keys {
	p := versionPrefix(name, version)
	return keys{p + "lane/" + l.String(), p + "parked/" + l.String() + "/", p + "dead/" + l.String() + "/"}
}

func (k *keys) parkedOf(e store.Key) string {
	return fmt.Sprintf("%s%d/%s/%s", k.parked, len(e.Kind), e.Kind, e.ID)
}

func (k *keys) deadAt(p store.Position) string { return fmt.Sprintf("%s%016d", k.dead, p.Sequence()) }

func seal(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("projection: encode a note: %v", err)) // its text is valid UTF-8
	}
	return store.Seal(b, 0)
}

// unseal decodes a note. Its error matches [store.ErrCorrupt].
func unseal(what string, sealed []byte, m proto.Message) error {
	b, err := store.Unseal(sealed)
	if err == nil {
		err = proto.Unmarshal(b, m)
	}
	if err != nil {
		return &store.CorruptError{What: what, Reason: err.Error()}
	}
	return nil
}

func corrupt(what, format string, args ...any) error {
	return &store.CorruptError{What: what, Reason: fmt.Sprintf(format, args...)}
}

func encodeServing(version int, now time.Time) []byte {
	return seal(&perdurev1.ProjectionServing{Version: uint32(version), TimeUnixNano: now.UnixNano()})
}

func decodeServing(b []byte) (int, error) {
	var p perdurev1.ProjectionServing
	if err := unseal("serving note", b, &p); err != nil {
		return 0, err
	}
	if p.GetVersion() == 0 {
		return 0, corrupt("serving note", "version 0 does not serve")
	}
	return int(p.GetVersion()), nil
}

// about is the note about a version: how it began.
type about struct {
	segments, partitions int
	log                  store.ID
	began                time.Time
	selection            *selection // nil in notes of former releases
	instance             store.ID   // zero in notes of former releases
	resets               uint64
	deleted              []store.Position // one for each partition with deleted events
}

// missing returns the position up to which events of a partition may have been deleted before the
// version began.
func (a *about) missing(partition int) store.Position {
	for _, p := range a.deleted {
		if p.Partition() == partition {
			return p
		}
	}
	return store.NewPosition(partition, 0)
}

func encodeAbout(a about) []byte {
	p := &perdurev1.ProjectionVersion{Lanes: uint32(a.segments), Partitions: uint32(a.partitions), TimeUnixNano: a.began.UnixNano()}
	if !a.log.IsZero() {
		p.LogId = a.log[:]
	}
	if a.selection != nil {
		p.Selection = a.selection.message()
	}
	if !a.instance.IsZero() {
		p.Instance = a.instance[:]
	}
	p.Resets = a.resets
	for _, d := range a.deleted {
		p.DeletedThrough = append(p.DeletedThrough, uint64(d))
	}
	return seal(p)
}

func decodeAbout(b []byte) (about, error) {
	var p perdurev1.ProjectionVersion
	if err := unseal("version note", b, &p); err != nil {
		return about{}, err
	}
	a := about{segments: int(p.GetLanes()), partitions: int(p.GetPartitions()), began: time.Unix(0, p.GetTimeUnixNano()).UTC()}
	switch n := len(p.GetLogId()); {
	case n != 0 && n != len(a.log):
		return about{}, corrupt("version note", "log id of %d bytes", n)
	case a.segments < 1 || a.segments > ParallelismMax || a.partitions < 1 || a.partitions > store.PartitionsMax:
		return about{}, corrupt("version note", "%d segments in %d partitions", a.segments, a.partitions)
	}
	copy(a.log[:], p.GetLogId())
	if n := len(p.GetInstance()); n != 0 && n != len(a.instance) {
		return about{}, corrupt("version note", "instance of %d bytes", n)
	}
	copy(a.instance[:], p.GetInstance())
	a.resets = p.GetResets()
	for _, d := range p.GetDeletedThrough() {
		if at := store.Position(d); at.Partition() >= a.partitions {
			return about{}, corrupt("version note", "deletions in partition %d of %d", at.Partition(), a.partitions)
		}
		a.deleted = append(a.deleted, store.Position(d))
	}
	if p.Selection != nil {
		a.selection = selectionOf(p.Selection)
	}
	return a, nil
}

// segmentNote is the note of a segment, with fields that only people read.
type segmentNote struct {
	projector.State

	process string
	time    time.Time
}

func encodeSegment(n *segmentNote) []byte {
	p := &perdurev1.ProjectionLane{
		Position: uint64(n.Position), Revision: n.Revision, LatchedThrough: uint64(n.EffectsAfter),
		Writer: n.Writer[:], Process: n.process, TimeUnixNano: n.time.UnixNano(),
		Parked: uint32(n.Parked), Dead: uint32(n.Dead),
	}
	if !n.At.IsZero() {
		p.EventId = n.At[:]
	}
	if n.EffectEdges != "" {
		p.Edges = []byte(n.EffectEdges)
	}
	return seal(p)
}

// decodeSegment decodes the note of a segment in a partition.
func decodeSegment(b []byte, partition int) (segmentNote, error) {
	var p perdurev1.ProjectionLane
	if err := unseal("segment note", b, &p); err != nil {
		return segmentNote{}, err
	}
	n := segmentNote{
		State: projector.State{
			Position: store.Position(p.GetPosition()), Revision: p.GetRevision(), EffectsAfter: store.Position(p.GetLatchedThrough()),
			Parked: int(p.GetParked()), Dead: int(p.GetDead()), EffectEdges: string(p.GetEdges()),
		},
		process: p.GetProcess(), time: time.Unix(0, p.GetTimeUnixNano()).UTC(),
	}
	switch {
	case len(p.GetWriter()) != len(n.Writer):
		return segmentNote{}, corrupt("segment note", "writer of %d bytes", len(p.GetWriter()))
	case n.Position.Partition() != partition || n.EffectsAfter.Partition() != partition:
		return segmentNote{}, corrupt("segment note", "position %v, effects through %v, in partition %d", n.Position, n.EffectsAfter, partition)
	}
	if k := len(p.GetEventId()); k != 0 && k != len(n.At) {
		return segmentNote{}, corrupt("segment note", "event id of %d bytes", k)
	}
	if err := n.Check(); err != nil {
		return segmentNote{}, corrupt("segment note", "%v", err)
	}
	copy(n.Writer[:], p.GetWriter())
	copy(n.At[:], p.GetEventId())
	return n, nil
}

func encodeParked(p *projector.Parked) []byte {
	return seal(&perdurev1.ProjectionParked{
		Kind: p.Key.Kind, EntityId: p.Key.ID, Version: uint64(p.Version), Position: uint64(p.Position),
		Type: p.Type, Error: p.Error, Attempts: uint32(p.Attempts), TimeUnixNano: p.Time.UnixNano(),
	})
}

func decodeParked(b []byte) (*projector.Parked, error) {
	var p perdurev1.ProjectionParked
	if err := unseal("note of a parked entity", b, &p); err != nil {
		return nil, err
	}
	n := &projector.Parked{
		Key: store.Key{Kind: p.GetKind(), ID: p.GetEntityId()}, Version: store.Version(p.GetVersion()),
		Position: store.Position(p.GetPosition()), Type: p.GetType(), Error: p.GetError(),
		Attempts: int(p.GetAttempts()), Time: time.Unix(0, p.GetTimeUnixNano()).UTC(),
	}
	if n.Key.Validate() != nil || n.Version == 0 || n.Position.Sequence() == 0 {
		return nil, corrupt("note of a parked entity", "version %d of %v at %v", n.Version, n.Key, n.Position)
	}
	return n, nil
}

func encodeDead(d *projector.DeadLetter) []byte {
	return seal(&perdurev1.ProjectionDeadLetter{
		Kind: d.Key.Kind, EntityId: d.Key.ID, Version: uint64(d.Version), Position: uint64(d.Position), Through: uint64(d.Through),
		Type: d.Type, Error: d.Error, Attempts: uint32(d.Attempts), TimeUnixNano: d.Time.UnixNano(),
	})
}

func decodeDead(b []byte) (*projector.DeadLetter, error) {
	var p perdurev1.ProjectionDeadLetter
	if err := unseal("dead letter", b, &p); err != nil {
		return nil, err
	}
	d := &projector.DeadLetter{
		Key: store.Key{Kind: p.GetKind(), ID: p.GetEntityId()}, Version: store.Version(p.GetVersion()),
		Position: store.Position(p.GetPosition()), Through: store.Position(p.GetThrough()), Type: p.GetType(), Error: p.GetError(),
		Attempts: int(p.GetAttempts()), Time: time.Unix(0, p.GetTimeUnixNano()).UTC(),
	}
	if d.Key.Validate() != nil || d.Version == 0 || d.Position.Sequence() == 0 || d.Through < d.Position {
		return nil, corrupt("dead letter", "version %d of %v at %v through %v", d.Version, d.Key, d.Position, d.Through)
	}
	return d, nil
}

// servingOf returns the version that readers use, or zero.
func servingOf(ctx context.Context, t txn, name string) (int, error) {
	b, err := t.note(ctx, servingKey(name))
	if b == nil || err != nil {
		return 0, err
	}
	return decodeServing(b)
}

// errGone says that a note that must exist does not.
var errGone = errors.New("there is no such note")

// readSegment reads the note of a segment. It returns an error matching errGone if there is none.
func readSegment(ctx context.Context, t txn, key string, partition int) (segmentNote, error) {
	b, err := t.note(ctx, key)
	if err != nil {
		return segmentNote{}, err
	}
	if b == nil {
		return segmentNote{}, fmt.Errorf("read note %s: %w", key, errGone)
	}
	n, err := decodeSegment(b, partition)
	if err != nil {
		return segmentNote{}, fmt.Errorf("read note %s: %w", key, err)
	}
	return n, nil
}

// segmentNotes reads the notes of all segments of a version.
func segmentNotes(ctx context.Context, t txn, name string, version int) (map[segmentID]segmentNote, error) {
	return segmentsUnder(ctx, t, versionPrefix(name, version))
}

// segmentsUnder reads the notes of all segments whose keys begin with a prefix.
func segmentsUnder(ctx context.Context, t txn, prefix string) (map[segmentID]segmentNote, error) {
	prefix += "lane/"
	list := map[segmentID]segmentNote{}
	for n, err := range t.notes(ctx, prefix) {
		if err != nil {
			return nil, fmt.Errorf("read notes %s: %w", prefix, err)
		}
		var id segmentID
		if _, err := fmt.Sscanf(n.Key[len(prefix):], "%d/%d", &id.partition, &id.segment); err != nil {
			return nil, fmt.Errorf("read note %s: %w", n.Key, corrupt("segment note", "its key names no segment"))
		}
		l, err := decodeSegment(n.Value, id.partition)
		if err != nil {
			return nil, fmt.Errorf("read note %s: %w", n.Key, err)
		}
		list[id] = l
	}
	return list, nil
}
