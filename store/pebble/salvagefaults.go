package pebble

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/perdure/perdure/store"
)

// A salvaged describes a log that was salvaged.
type salvaged struct {
	scratch string // directory to remove
	faults  []error
	more    int // number of faults that are not in faults
	// unsure says why records of any sort may be missing, or is empty.
	unsure string
	// tail says why the last commits may be missing, or is empty.
	tail string
	// proven holds the sorts of which no record is missing, according to the log's counters.
	proven map[store.RecordKind]bool
}

func (s *salvaged) fault(where string, err error) {
	if len(s.faults) >= salvageFaultsMax {
		s.more++
		return
	}
	s.faults = append(s.faults, &store.CorruptError{What: "file", Where: where, Reason: err.Error()})
}

// missing records a fault, and that records may be missing because of it.
func (s *salvaged) missing(where string, err error) {
	s.fault(where, err)
	s.unsure = cmp.Or(s.unsure, fmt.Sprintf("%s: %v", where, err))
}

// told returns all faults.
func (s *salvaged) told() []error {
	if s.more == 0 {
		return s.faults
	}
	return append(slices.Clip(s.faults), &store.CorruptError{What: "file", Reason: fmt.Sprintf("there are %d more faults", s.more)})
}

// missed yields an error if records of a sort may be missing.
func (s *salvaged) missed(sort store.RecordKind, yield func(store.Record, error) bool) bool {
	if s == nil {
		return true
	}
	reason := s.unsure
	if s.proven[sort] {
		reason = ""
	}
	if sort == store.KindClaim { // report tail once, in a sort that no reader needs completely
		reason = cmp.Or(reason, s.tail)
	}
	return reason == "" || yield(nil, &store.CorruptError{What: sort.String(), Reason: "some may be missing: " + reason})
}
