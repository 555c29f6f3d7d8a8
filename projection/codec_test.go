package projection

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/core/projector"
	"github.com/perdure/perdure/store"
)

func samples() map[string][]byte {
	key := store.Key{Kind: "k", ID: "i"}
	at := time.Unix(7, 0).UTC()
	segment := segmentNote{State: projector.State{Position: 5, Revision: 3, EffectsAfter: 4, Writer: store.ID{9}, Parked: 1, Dead: 2}, process: "host:1", time: at}
	return map[string][]byte{
		"serving": encodeServing(3, at),
		"about":   encodeAbout(about{segments: 2, partitions: 3, log: store.ID{1}, began: at}),
		"segment": encodeSegment(&segment),
		"parked":  encodeParked(&projector.Parked{Key: key, Version: 2, Position: 5, Type: "t", Error: "e", Attempts: 3, Time: at}),
		"dead":    encodeDead(&projector.DeadLetter{Key: key, Version: 2, Position: 5, Through: 6, Type: "t", Error: "e", Attempts: 3, Time: at}),
	}
}

// reencode decodes a note and encodes it again.
func reencode(what string, b []byte) ([]byte, error) {
	switch what {
	case "serving":
		v, err := decodeServing(b)
		if err != nil {
			return nil, err
		}
		return encodeServing(v, time.Unix(7, 0)), nil
	case "about":
		a, err := decodeAbout(b)
		if err != nil {
			return nil, err
		}
		return encodeAbout(a), nil
	case "segment":
		n, err := decodeSegment(b, 0)
		if err != nil {
			return nil, err
		}
		return encodeSegment(&n), nil
	case "parked":
		p, err := decodeParked(b)
		if err != nil {
			return nil, err
		}
		return encodeParked(p), nil
	}
	d, err := decodeDead(b)
	if err != nil {
		return nil, err
	}
	return encodeDead(d), nil
}

func TestNotesAreReadBackAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	for what, b := range samples() {
		again, err := reencode(what, b)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s note %x is read back as %x, %v", what, b, again, err)
		}
	}
}

func TestNoteWithADamagedByteIsNoticed(t *testing.T) {
	t.Parallel()
	for what, b := range samples() {
		for i := range b {
			for bit := range 8 {
				damaged := bytes.Clone(b)
				damaged[i] ^= 1 << bit
				if _, err := reencode(what, damaged); !errors.Is(err, store.ErrCorrupt) {
					t.Errorf("%s note with bit %d of byte %d flipped says %v", what, bit, i, err)
				}
			}
		}
		if _, err := reencode(what, b[:len(b)-1]); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s note cut short says %v", what, err)
		}
	}
	if _, err := decodeSegment(samples()["segment"], 1); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("a note of another partition says %v", err)
	}
}

func FuzzDecodeNotes(f *testing.F) {
	for _, b := range samples() {
		f.Add(b[:len(b)-4])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		sealed := store.Seal(bytes.Clone(b), 0)
		for what := range samples() {
			again, err := reencode(what, sealed)
			if err != nil {
				if !errors.Is(err, store.ErrCorrupt) {
					t.Errorf("%s: %v", what, err)
				}
				continue
			}
			once, err := reencode(what, again)
			if err != nil || !bytes.Equal(once, again) {
				t.Errorf("%s note %x becomes %x, then %x, %v", what, sealed, again, once, err)
			}
		}
	})
}
