package crashtest

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"strconv"
	"strings"

	"github.com/perdure/perdure/store"
)

// A wish asks a child process to read a log.
type wish struct {
	Place string
	Keys  []store.Key
	// Versions are the expected versions of the entities, which an empty batch for each
	// entity checks. Nil checks none.
	Versions []store.Version
}

func writeJSON(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// eachWish calls fn for each wish until the end of the input.
func eachWish(r io.Reader, fn func(*wish) error) error {
	lines := bufio.NewReader(r)
	for {
		b, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		var w wish
		if err == nil {
			err = json.Unmarshal(b, &w)
		}
		if err == nil {
			err = fn(&w)
		}
		if err != nil {
			return err
		}
	}
}

// A reading is everything that a log returns, grouped by question.
type reading struct {
	Open   *fault `json:",omitempty"`
	Groups map[string]*group
}

// A group is the answer to one question.
type group struct {
	Lines int
	Sum   string // hash of all lines
	First string // the beginning of the first line
	Last  store.Version
	Err   *fault `json:",omitempty"`
	sum   hash.Hash
}

// A fault is an error, reduced to the properties that a test checks.
type fault struct {
	Text                    string
	Corrupt, Format, Broken bool
	Key                     string `json:",omitempty"`
}

func faultOf(err error) *fault {
	f := &fault{
		Text: err.Error(), Corrupt: errors.Is(err, store.ErrCorrupt),
		Format: errors.Is(err, store.ErrFormat), Broken: errors.Is(err, store.ErrBroken),
	}
	if c, ok := errors.AsType[*store.CorruptError](err); ok && !c.Key.IsZero() {
		f.Key = c.Key.String()
	}
	return f
}

// corrupt reports whether an answer was an error about corruption.
func (r *reading) corrupt() bool {
	for _, g := range r.Groups {
		if g.Err != nil && g.Err.Corrupt {
			return true
		}
	}
	return false
}

// version returns the version at which an entity was loaded.
func (r *reading) version(key store.Key) store.Version {
	if g := r.Groups["load "+key.String()]; g != nil {
		return g.Last
	}
	return 0
}

// verifyGroup is the group with the answer of [Subject.Verify].
const verifyGroup = "verify"

// lineBytesMax bounds the part of a line that is kept.
const lineBytesMax = 120

func (r *reading) add(name string, err error, format string, args ...any) {
	g := r.Groups[name]
	if g == nil {
		g = &group{sum: sha256.New()}
		r.Groups[name] = g
	}
	if err != nil {
		if g.Err == nil {
			g.Err = faultOf(err)
		}
		return
	}
	s := fmt.Sprintf(format, args...)
	if g.Lines++; g.Lines == 1 {
		g.First = strings.ToValidUTF8(s[:min(len(s), lineBytesMax)], "?")
	}
	_, _ = fmt.Fprintf(g.sum, "%d %s", len(s), s) // writing to a hash does not fail
}

// addEvent adds an event. The payload is added as bytes, because it is long.
func (r *reading) addEvent(name string, e *store.Event, err error) {
	if err != nil {
		r.add(name, err, "")
		return
	}
	text := e.Clone()
	text.Payload = nil
	r.add(name, nil, "%+v %s", text, e.Payload)
}

func addAll[T any](r *reading, name string, all iter.Seq2[T, error]) {
	r.add(name, nil, "asked")
	for v, err := range all {
		r.add(name, err, "%+v", v)
	}
}

// read opens a log and reads everything in it.
func read(ctx context.Context, s *Subject, w *wish) *reading {
	r := &reading{Groups: map[string]*group{}}
	log, err := s.Open(w.Place)
	if err != nil {
		r.Open = faultOf(err)
		return r
	}
	heads, err := log.Heads(ctx)
	r.add("heads", err, "%v", heads)
	for p := range heads {
		name := "scan " + strconv.Itoa(p)
		for e, err := range log.Scan(ctx, store.Query{After: store.NewPosition(p, 0)}) {
			r.addEvent(name, e, err)
		}
	}
	for i, key := range w.Keys {
		r.readEntity(ctx, log, key)
		if w.Versions == nil {
			continue
		}
		results, err := log.Commit(ctx, []*store.Batch{{Key: key, Expected: w.Versions[i]}})
		if err == nil {
			err = results[0].Err
		}
		r.add("version "+key.String(), err, "as expected")
	}
	r.readAbilities(ctx, log)
	if s.Verify != nil {
		r.add(verifyGroup, s.Verify(ctx, log), "sound")
	}
	_ = log.Close() // a log that has found damage may report it again
	for _, g := range r.Groups {
		g.Sum = hex.EncodeToString(g.sum.Sum(nil))
	}
	return r
}

func (r *reading) readEntity(ctx context.Context, log store.Log, key store.Key) {
	load := "load " + key.String()
	r.add(load, nil, "asked")
	last, states := store.Version(0), 0
	for e, err := range log.Load(ctx, key, func(s *store.State) bool {
		text := *s
		text.Payload = nil
		r.add(load, nil, "%+v %s", text, s.Payload)
		if last == 0 {
			last = s.Version
		}
		states++
		return states > 1 // refuse the first state, so that the older one is read too
	}) {
		r.addEvent(load, e, err)
		if err == nil {
			last = e.Version
		}
	}
	r.Groups[load].Last = last
	r.add("read "+key.String(), nil, "asked")
	for e, err := range log.Read(ctx, key, 0) {
		r.addEvent("read "+key.String(), e, err)
	}
	addAll(r, "receipts "+key.String(), log.Receipts(ctx, key))
}

func (r *reading) readAbilities(ctx context.Context, log store.Log) {
	kinds, err := log.Kinds(ctx)
	r.add("kinds", err, "%v", kinds)
	for _, kind := range []string{kindEvents, kindSaved} {
		addAll(r, "entities "+kind, log.Entities(ctx, kind, ""))
	}
	addAll(r, "messages", log.Messages(ctx, store.MessageQuery{}))
	addAll(r, "parked messages", log.Messages(ctx, store.MessageQuery{Parked: true}))
	addAll(r, "claims", log.Claims(ctx, claimSpace))
	all, err := log.Checkpoints(ctx)
	r.add("checkpoints", err, "%+v", all)
}
