package fingerprint

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"

	"google.golang.org/protobuf/proto"

	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
)

// A Verdict is the result of comparing two prints.
type Verdict uint8

// The verdicts. The zero value is the safe one.
const (
	// Other: the folds differ, or the prints allow no conclusion.
	Other Verdict = iota
	// Same: the folds give the same answers to all questions that both were asked.
	Same
	// Unreadable: the states themselves differ in a way that protobuf does not convert: one
	// field number with two types.
	Unreadable
	// Unknown: both were asked no common question.
	Unknown
)

// A Print describes a fold, see the package comment. It does not change.
type Print struct {
	fold    perdurev1.Fold
	marks   []mark
	encoded []byte
	stuck   []string
}

// A mark is a question with its answer.
type mark struct {
	question uint32
	answer   uint16
	sort     sort
	// for a pair: the questions that a program was asked if and only if it knows the events
	// with the same fields, so that it was asked about the pair too
	first, second uint32
}

// A sort is a sort of question.
type sort uint8

const (
	// ofFold: which state do the rules make of events?
	ofFold sort = iota
	// ofState: which type does a field of the state have?
	ofState
	// ofPair: what does an event do after another one? Most pairs have the answer plain,
	// which is not encoded.
	ofPair
)

// plain is the answer of a pair whose second event adds to the first one's state just what
// it adds to an empty state.
const plain = 0

const (
	markBytes = 6
	// pairsMax bounds the pairs that are encoded one by one, marksMax bounds all marks. For
	// a kind with more, only the hash of all answers is encoded.
	pairsMax = 384
	marksMax = 4096
)

// seal sorts the marks and encodes the print.
func (p *Print) seal() {
	slices.SortFunc(p.marks, func(a, b mark) int {
		return cmp.Or(cmp.Compare(a.question, b.question), cmp.Compare(a.answer, b.answer))
	})
	p.marks = slices.CompactFunc(p.marks, func(a, b mark) bool { return a.question == b.question })
	pairs := 0
	for _, m := range p.marks {
		if m.sort == ofPair {
			if m.answer == plain {
				continue
			}
			if pairs++; pairs > pairsMax {
				p.fold.Partial = true
				continue
			}
		}
		p.fold.Marks = binary.LittleEndian.AppendUint32(p.fold.Marks, m.question)
		p.fold.Marks = binary.LittleEndian.AppendUint16(p.fold.Marks, m.answer)
	}
	if len(p.fold.Marks) > marksMax*markBytes {
		p.fold.Marks, p.fold.Partial = nil, true
	}
	var err error
	if p.encoded, err = (proto.MarshalOptions{Deterministic: true}).Marshal(&p.fold); err != nil {
		panic("perdure: encode a fingerprint: " + err.Error()) // the message holds only numbers and bytes
	}
}

// Encode returns the stored form, which must not be changed.
func (p *Print) Encode() []byte { return p.encoded }

// Stuck returns the names of the events and old states whose rule did not return for a
// sample. Such a rule continues on a goroutine that cannot be ended.
func (p *Print) Stuck() []string { return p.stuck }

// Compare compares a stored print with p.
func (p *Print) Compare(stored []byte) Verdict {
	if bytes.Equal(stored, p.encoded) {
		return Same
	}
	var other perdurev1.Fold
	if err := proto.Unmarshal(stored, &other); err != nil || len(other.GetMarks())%markBytes != 0 {
		return Unknown
	}
	answers := make(map[uint32]uint16, len(other.GetMarks())/markBytes)
	for b := other.GetMarks(); len(b) > 0; b = b[markBytes:] {
		answers[binary.LittleEndian.Uint32(b)] = binary.LittleEndian.Uint16(b[4:])
	}
	shared := p.fold.GetQuestions() == other.GetQuestions()
	differs := p.fold.GetVersion() != other.GetVersion() || shared && p.fold.GetAnswers() != other.GetAnswers()
	for _, m := range p.marks {
		answer, asked := answers[m.question]
		if !asked && m.sort == ofPair && !p.fold.GetPartial() && !other.GetPartial() {
			answer, asked = plain, has(answers, m.first) && has(answers, m.second)
		}
		switch {
		case !asked:
		case answer == m.answer:
			shared = shared || m.sort == ofFold
		case m.sort == ofState:
			return Unreadable
		default:
			differs = true
		}
	}
	switch {
	case differs:
		return Other
	case shared:
		return Same
	}
	return Unknown
}

func has(answers map[uint32]uint16, question uint32) bool {
	_, ok := answers[question]
	return ok
}
