package projection

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
	"github.com/perdure/perdure/store"
)

// ErrSelection says that the rules of a runner select other events than the rules that built the
// read model. If the runner went on, events would be missing. See [Version].
var ErrSelection = errors.New("rules select other events")

// selectionBytesMax bounds the names in the note of a selection.
const selectionBytesMax = 32 << 10

// A selection says which events a version handles. Empty lists select all events. Two selections
// are compared by their fingerprints, because a note may lack the lists.
type selection struct {
	kinds, types, tags []string // sorted
	print              []byte
	short              bool
}

// newSelection returns the selection of a query.
func newSelection(q store.Query) *selection {
	sorted := func(list []string) []string {
		list = slices.Clone(list)
		slices.Sort(list)
		return slices.Compact(list)
	}
	s := &selection{kinds: sorted(q.Kinds), types: sorted(q.Types), tags: sorted(q.Tags)}
	h := sha256.New()
	total := 0
	for _, list := range [][]string{s.kinds, s.types, s.tags} {
		h.Write(fmt.Appendf(nil, "%d\n", len(list)))
		for _, name := range list {
			h.Write(fmt.Appendf(nil, "%q\n", name))
			total += len(name) + 4
		}
	}
	s.print = h.Sum(nil)
	s.short = total > selectionBytesMax
	return s
}

func (s *selection) message() *perdurev1.ProjectionSelection {
	p := &perdurev1.ProjectionSelection{Fingerprint: s.print, Short: s.short}
	if !s.short {
		p.Kinds, p.Types, p.Tags = s.kinds, s.types, s.tags
	}
	return p
}

func selectionOf(p *perdurev1.ProjectionSelection) *selection {
	return &selection{kinds: p.GetKinds(), types: p.GetTypes(), tags: p.GetTags(), print: p.GetFingerprint(), short: p.GetShort()}
}

func (s *selection) same(o *selection) bool { return bytes.Equal(s.print, o.print) }

// A field is one of the lists of two selections.
type field struct {
	what   string
	of, in []string
}

// covers reports whether s selects every event that o selects. If not, left names the events that
// s leaves out.
func (s *selection) covers(o *selection) (left string, ok bool) {
	if s.short || o.short {
		return "more types than a note can name", false
	}
	for _, f := range []field{{"kind", s.kinds, o.kinds}, {"type", s.types, o.types}, {"tag", s.tags, o.tags}} {
		switch {
		case len(f.of) == 0:
		case len(f.in) == 0:
			return "all but some " + f.what + "s", false
		default:
			if gone := without(f.in, f.of); len(gone) > 0 {
				return f.what + " " + strings.Join(gone, ", "), false
			}
		}
	}
	return "", true
}

// without returns the names of a list that are not in another one.
func without(list, other []string) (rest []string) {
	for _, n := range list {
		if !slices.Contains(other, n) {
			rest = append(rest, n)
		}
	}
	return rest
}

// query returns a query for the events that s selects and o, which it covers, may not. The caller
// must check each result with [selection.match] of o.
func (s *selection) query(o *selection) store.Query {
	q := store.Query{Kinds: s.kinds, Types: s.types, Tags: s.tags}
	if slices.Equal(s.kinds, o.kinds) && slices.Equal(s.tags, o.tags) && len(s.types) > 0 {
		q.Types = without(s.types, o.types)
	}
	return q
}

// match reports whether the selection includes an event.
func (s *selection) match(e *store.Event) bool {
	q := store.Query{Kinds: s.kinds, Types: s.types, Tags: s.tags}
	return q.Match(e)
}
