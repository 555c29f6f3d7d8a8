package perduretest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/internal/kindrules"
	"github.com/perdure/perdure/store"
)

const (
	replayFormat = 1
	// replayEventsMax bounds the events of a recording, because a recording is kept in
	// version control and every run of the tests folds it.
	replayEventsMax = 10_000
)

// ReplayGuard folds the events of a recording with the current rules of the kind, and fails
// the test if a state differs from the recorded one. So it detects every change of an
// Evolve rule, of an upcast or of a message that would change the state of existing
// entities. Such a change matters because past commands were decided on the old states.
//
// A failure names the entity, the version and the event. The guard also fails if an event
// cannot be read any more, if an event has fields that its message no longer has, and if
// folding the same events again gives another state: because a rule reads a clock, ranges
// over a map, draws a random number, or keeps something between calls. If the change is
// intended, [RecordReplay] records the new states, and version control shows the
// differences.
//
// If the states have changed but the fingerprint in snapshots has not (see
// [perdure.SnapshotEvery]), the guard reports it: then raise [perdure.FoldVersion],
// otherwise entities with snapshots keep their old states. The guard logs the Evolve rules
// and upcasts that the recording never reaches, because it cannot guard those.
//
// [RecordReplay] makes the recording from a log. The guard is for event-sourced kinds.
func ReplayGuard[S proto.Message](tb testing.TB, kind *perdure.Kind[S], file string) {
	tb.Helper()
	rules, err := kindrules.Of(kind)
	if err != nil {
		tb.Fatal(err)
	}
	r, err := readReplay(file, rules)
	if err != nil {
		tb.Fatalf("replay guard of kind %q: %v", kind.Name(), err)
	}
	first := r.fold(rules)
	for _, f := range first.faults {
		tb.Errorf("%s: %s", file, f)
	}
	if first.changed && r.sameFingerprint(rules) {
		tb.Errorf("%s: the fold has changed, and the fingerprint of kind %s is the same: raise FoldVersion, or snapshots keep the old states",
			file, r.Kind)
	}
	if missing := r.unreached(rules); len(missing) > 0 {
		tb.Logf("%s: the recording has no event of type %s, so their rules are not guarded", file, strings.Join(missing, ", "))
	}
	again := r.fold(rules)
	for i := range r.Steps {
		if a, b := first.states[i], again.states[i]; a != "" && b != "" && a != b {
			tb.Errorf("%s: %s: folded again, the state is another one: the rules depend on something else than the events",
				file, r.name(i))
			break
		}
	}
}

// RecordReplay writes a recording for [ReplayGuard] to a file: all events that the log
// keeps of the entities with these ids, with the states that the current rules make of
// them. An entity whose first events are deleted begins with its oldest snapshot. If log is
// nil, RecordReplay keeps the events of the file and records only the states again.
//
// Call it from a test that a flag turns on, and look at the changes before you commit them.
// A recording of a few invented entities that use every event and rule is worth more than a
// recording of many similar ones.
func RecordReplay[S proto.Message](tb testing.TB, kind *perdure.Kind[S], file string, log store.Log, ids ...string) {
	tb.Helper()
	rules, err := kindrules.Of(kind)
	if err != nil {
		tb.Fatal(err)
	}
	var r *replay
	if log == nil {
		r, err = readReplay(file, rules)
	} else {
		r, err = recordLog(tb, rules, log, ids)
	}
	if err == nil {
		err = r.write(file, rules)
	}
	if err != nil {
		tb.Fatalf("record kind %q: %v", kind.Name(), err)
	}
}

// A replay is a recording: a header, and a line for each step.
type replay struct {
	Format int    `json:"format"`
	Kind   string `json:"kind"`
	State  string `json:"state"`
	// Fingerprint and Fold are those that a snapshot by the recording rules carries.
	// Recordings of earlier versions have no Fold.
	Fingerprint string `json:"fingerprint"`
	Fold        []byte `json:"fold,omitempty"`

	Steps []replayStep `json:"-"`
}

// A replayStep is an event, or a snapshot that an entity begins with, and the
// hash of the state after it.
type replayStep struct {
	ID       string        `json:"id"`
	Version  store.Version `json:"version"`
	Snapshot bool          `json:"snapshot,omitempty"`
	Type     string        `json:"type"`
	Payload  []byte        `json:"payload"`
	Hash     string        `json:"hash"`
}

// name describes a step for errors.
func (r *replay) name(i int) string {
	s := &r.Steps[i]
	what := "event"
	if s.Snapshot {
		what = "snapshot"
	}
	return fmt.Sprintf("kind %s, entity %s, version %d, %s %s", r.Kind, s.ID, s.Version, what, s.Type)
}

// sameFingerprint reports whether the rules accept snapshots of the rules that recorded the
// states.
func (r *replay) sameFingerprint(rules *entity.Rules) bool {
	n, err := strconv.ParseUint(r.Fingerprint, 16, 64)
	return err == nil && rules.Judge(&store.State{Type: rules.StateType, Fingerprint: n, Fold: r.Fold}) == entity.SnapshotSame
}

// unreached returns the types of events that have a rule and no step.
func (r *replay) unreached(rules *entity.Rules) []string {
	reached := make(map[string]bool)
	for i := range r.Steps {
		s := &r.Steps[i]
		if rule := rules.Stored[s.Type]; rule != nil && !s.Snapshot {
			reached[s.Type] = true
			if rule.Evolve != nil {
				reached[rule.Evolve.Type] = true
			}
			for _, name := range rule.Becomes {
				reached[name] = true
			}
		}
	}
	var missing []string
	for _, name := range slices.Sorted(maps.Keys(rules.Stored)) {
		if !reached[name] {
			missing = append(missing, name)
		}
	}
	return missing
}

func readReplay(file string, rules *entity.Rules) (*replay, error) {
	if rules.Durable {
		return nil, errors.New("it keeps its state and no events")
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := new(replay)
	for n, line := range bytes.Split(bytes.TrimSuffix(data, []byte("\n")), []byte("\n")) {
		var into any = r
		if n > 0 {
			r.Steps = append(r.Steps, replayStep{})
			into = &r.Steps[n-1]
		}
		if err := json.Unmarshal(line, into); err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", file, n+1, err)
		}
	}
	switch {
	case r.Format != replayFormat:
		return nil, fmt.Errorf("%s: a recording of format %d, not %d", file, r.Format, replayFormat)
	case r.Kind != rules.Kind:
		return nil, fmt.Errorf("%s: a recording of kind %q", file, r.Kind)
	case len(r.Steps) == 0:
		return nil, fmt.Errorf("%s: a recording of nothing", file)
	}
	return r, nil
}

// recordLog reads a recording from a log.
func recordLog(tb testing.TB, rules *entity.Rules, log store.Log, ids []string) (*replay, error) {
	r := &replay{Format: replayFormat, Kind: rules.Kind}
	if rules.Durable {
		return nil, errors.New("it keeps its state and no events")
	}
	for _, id := range ids {
		from := len(r.Steps)
		key := store.Key{Kind: rules.Kind, ID: id}
		oldest := replayStep{}
		for e, err := range log.Load(tb.Context(), key, func(s *store.State) bool {
			oldest = replayStep{ID: id, Version: s.Version, Snapshot: true, Type: s.Type, Payload: bytes.Clone(s.Payload)}
			return false // refuse it, so that the older one is offered too, and then all events
		}) {
			if err != nil {
				return nil, err
			}
			if len(r.Steps) == from && e.Version > 1 {
				if oldest.Version+1 < e.Version {
					return nil, fmt.Errorf("entity %s: the events before version %d are gone, and there is no snapshot below it", id, e.Version)
				}
				r.Steps = append(r.Steps, oldest)
			}
			if e.Version <= oldest.Version && len(r.Steps) > from && r.Steps[from].Snapshot {
				continue
			}
			r.Steps = append(r.Steps, replayStep{ID: id, Version: e.Version, Type: e.Type, Payload: bytes.Clone(e.Payload)})
			if len(r.Steps) > replayEventsMax {
				return nil, fmt.Errorf("more than %d events", replayEventsMax)
			}
		}
		if len(r.Steps) == from {
			return nil, fmt.Errorf("the log has no entity %q", id)
		}
	}
	return r, nil
}

// write folds the recording and writes it with the current states.
func (r *replay) write(file string, rules *entity.Rules) error {
	for i := range r.Steps {
		r.Steps[i].Hash = ""
	}
	folded := r.fold(rules)
	for i := range r.Steps {
		r.Steps[i].Hash = folded.states[i]
	}
	// A fault that is left now is not a changed state.
	if faults := r.fold(rules).faults; len(faults) > 0 {
		return errors.New(faults[0])
	}
	r.State, r.Fingerprint, r.Fold = rules.StateType, fmt.Sprintf("%016x", rules.Fingerprint), rules.Fold()
	var b bytes.Buffer
	out := json.NewEncoder(&b)
	if err := out.Encode(r); err != nil {
		return err
	}
	for i := range r.Steps {
		if err := out.Encode(&r.Steps[i]); err != nil {
			return err
		}
	}
	return os.WriteFile(file, b.Bytes(), 0o600)
}

// A foldedReplay is the result of folding a recording: the hash of the state after each
// step, empty if the state is unknown, and the faults.
type foldedReplay struct {
	states  []string
	faults  []string
	changed bool // a state differs from the recorded one
}

// fold folds all entities. After a failure it skips the rest of the entity, since all later
// states would differ as well.
func (r *replay) fold(rules *entity.Rules) *foldedReplay {
	check := new(checker)
	checked := check.wrap(rules)
	f := &foldedReplay{states: make([]string, len(r.Steps))}
	var state proto.Message
	version, failed := store.Version(0), ""
	for i := range r.Steps {
		s := &r.Steps[i]
		if i == 0 || r.Steps[i-1].ID != s.ID {
			state, version, failed = rules.NewState(), 0, ""
		}
		if failed != "" {
			continue
		}
		switch err := s.apply(checked, &state, version); {
		case err != nil:
			failed = err.Error()
		default:
			version = s.Version
			f.states[i] = hashOf(state)
			if faults := check.take(); len(faults) > 0 {
				failed = faults[0]
			} else if s.Hash != "" && f.states[i] != s.Hash {
				f.changed = true
				failed = fmt.Sprintf("the state is another one than recorded: got hash %s, want %s; it is now {%s}", f.states[i], s.Hash, text(state))
			}
		}
		if failed != "" {
			f.faults = append(f.faults, r.name(i)+": "+failed)
		}
	}
	return f
}

// apply applies one step to the state.
func (s *replayStep) apply(rules *entity.Rules, state *proto.Message, version store.Version) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	switch {
	case s.Snapshot && s.Type != rules.StateType:
		*state, err = rules.ReadState(s.Type, s.Payload)
		return err
	case s.Snapshot:
		return readWhole(s.Payload, *state)
	case s.Version != version+1:
		return fmt.Errorf("it comes after version %d", version)
	}
	rule := rules.Stored[s.Type]
	if rule == nil {
		return errors.New("the kind has neither an Evolve rule nor an Upcast for it")
	}
	message := rule.New()
	if err := readWhole(s.Payload, message); err != nil {
		return err
	}
	return rule.Apply(rules.Evolve, *state, message)
}

// readWhole decodes a payload, which must not have fields that the message lacks.
func readWhole(payload []byte, m proto.Message) error {
	if err := proto.Unmarshal(payload, m); err != nil {
		return err
	}
	if field := unknownField(m.ProtoReflect()); field != "" {
		return fmt.Errorf("it holds a field that the message does not have any more: %s", field)
	}
	return nil
}
