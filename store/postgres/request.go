package postgres

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"iter"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/store"
)

// A statement is an SQL statement with its arguments. Its result rows are not read.
type statement struct {
	sql  string
	args []any
	copy string // COPY statement that stores the same rows; args are its columns
}

// A request holds all statements that a committer sends at once and then waits for, with
// the rows of new events among them.
//
// A request is sent as a script or as a pipeline. A script sends the rows of events by COPY,
// which takes the server a quarter to a third less time than taking arrays apart;
// BenchmarkWays compares them. A COPY cannot be in a pipeline. A script executes prepared
// statements, with literals as arguments. It sends new messages and receipts by COPY as
// well. Other records would be literals, and the server writes the text of a failed script
// to its log, so a script must not contain a payload. A request with such records, or with
// few events, is therefore sent as a pipeline.
type request struct {
	before, after []statement // statements before and after the events
	events        []*store.Event
	bytes         int // size of the records that a script would contain as literals
}

const (
	// scriptEventsMin is the number of events from which a script is faster.
	scriptEventsMin = 16
	// requestBytesMax is less than the largest protocol message that the server accepts,
	// one GiB. The protocol has 32 bits for a length. If a longer length were cut off, the
	// server would read the rest of the message as other messages.
	requestBytesMax = 1<<30 - 1<<10
)

// putLength writes the length of w from index from on, minus off, into the four bytes at
// from. It returns false, and writes nothing, if a message cannot have this length.
func putLength(w []byte, from, off int) bool {
	n := len(w) - from - off
	if n < 0 || n > requestBytesMax {
		return false
	}
	binary.BigEndian.PutUint32(w[from:], uint32(n))
	return true
}

func (m *request) add(sql string, args ...any) { m.addCopied("", sql, args...) }

// addOpen adds a statement whose records have no payload, so that they may be literals.
func (m *request) addOpen(sql string, args ...any) {
	bytes := m.bytes
	m.add(sql, args...)
	m.bytes = bytes
}

// addCopied adds a statement that stores rows, and a COPY that stores the same rows.
func (m *request) addCopied(copied, sql string, args ...any) {
	s := statement{sql, args, copied}
	for _, a := range args {
		if copied != "" {
			break
		}
		if records, ok := a.([][]byte); ok {
			for _, r := range records {
				m.bytes += len(r)
			}
		}
	}
	if m.events == nil {
		m.before = append(m.before, s)
	} else {
		m.after = append(m.after, s)
	}
}

// large reports whether the request should be sent as a script.
func (m *request) large() bool {
	return len(m.events) >= scriptEventsMin && m.bytes == 0
}

// pipeline returns the request as a pipeline.
func (m *request) pipeline(s *statements) *pgx.Batch {
	b := &pgx.Batch{}
	for _, st := range m.before {
		b.Queue(st.sql, st.args...)
	}
	for part := range parts(m.events) {
		b.Queue(s.insertEvents, unnested(part)...)
	}
	for _, st := range m.after {
		b.Queue(st.sql, st.args...)
	}
	return b
}

// append appends the request as a script in the form of the protocol: a simple query, and
// the rows for its COPY statements. It returns false if a script cannot hold one of the
// arguments, if a statement with arguments has no name, or if the script would be too long.
func (m *request) append(w []byte, s *statements, names map[string]string) ([]byte, bool) {
	from := len(w) + 1
	w = append(w, 'Q', 0, 0, 0, 0)
	all := m.before
	if len(m.events) > 0 {
		all = slices.Concat(m.before, []statement{{sql: s.copyEvents}}, m.after)
	}
	for i := range all {
		var ok bool
		if w, ok = all[i].append(w, names); !ok {
			return w, false
		}
		w = append(w, ";\n"...)
	}
	w = append(w, 0)
	if !putLength(w, from, 0) {
		return w, false
	}
	if len(m.events) > 0 {
		if rowsRoom(m.events) > requestBytesMax {
			return w, false
		}
		var ok bool
		if w, ok = appendParts(w, m.events); !ok {
			return w, false
		}
		w = append(w, 'c', 0, 0, 0, 4)
	}
	for i := range all {
		if all[i].copy != "" {
			var ok bool
			if w, ok = appendColumns(w, all[i].args); !ok {
				return w, false
			}
			w = append(w, 'c', 0, 0, 0, 4)
		}
	}
	return w, true
}

// executed returns the texts of the prepared statements that a script executes by name.
func (m *request) executed() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, all := range [][]statement{m.before, m.after} {
			for i := range all {
				if len(all[i].args) > 0 && all[i].copy == "" && !yield(all[i].sql) {
					return
				}
			}
		}
	}
}

// nameOf returns the name under which a statement is prepared for scripts. The server cuts
// names off after 63 bytes.
func nameOf(sql string) string {
	sum := sha256.Sum256([]byte(sql))
	return "perdure_" + hex.EncodeToString(sum[:16])
}

// append appends the text of the statement. If it has arguments, append writes an EXECUTE
// of its prepared form.
func (s *statement) append(w []byte, names map[string]string) ([]byte, bool) {
	if s.copy != "" {
		return append(w, s.copy...), true
	}
	if len(s.args) == 0 {
		return append(w, s.sql...), true
	}
	name := names[s.sql]
	if name == "" {
		return w, false
	}
	w = append(append(w, "EXECUTE "...), name...)
	for i, arg := range s.args {
		w = append(w, "(,"[min(i, 1)])
		from := len(w)
		var null, ok bool
		if w, null, ok = appendText(append(w, "E'"...), arg); !ok {
			return w, false
		}
		if null {
			w = append(w[:from], "NULL"...)
			continue
		}
		w = append(escaped(w, from+len("E'")), '\'')
	}
	return append(w, ')'), true
}

// escaped doubles each quote and backslash in w[from:], the text of an E-quoted literal.
func escaped(w []byte, from int) []byte {
	if bytes.IndexByte(w[from:], '\'') < 0 && bytes.IndexByte(w[from:], '\\') < 0 {
		return w
	}
	plain := bytes.Clone(w[from:])
	w = w[:from]
	for _, c := range plain {
		if c == '\'' || c == '\\' {
			w = append(w, c)
		}
		w = append(w, c)
	}
	return w
}

// appendText appends an argument in the text form of its type. It reports whether the
// argument is NULL, and returns false if the text of a query cannot hold it.
func appendText(w []byte, arg any) (text []byte, null, ok bool) {
	from := len(w)
	switch a := arg.(type) {
	case nil:
		return w, true, true
	case string:
		w = append(w, a...)
	case int64:
		w = strconv.AppendInt(w, a, 10)
	case []int64:
		w = appendArray(w, a, func(w []byte, v int64) []byte { return strconv.AppendInt(w, v, 10) })
	case []int32:
		w = appendArray(w, a, func(w []byte, v int32) []byte { return strconv.AppendInt(w, int64(v), 10) })
	case []bool:
		w = appendArray(w, a, strconv.AppendBool)
	case []string:
		w = appendArray(w, a, appendElement)
	case []*string:
		w = appendArray(w, a, func(w []byte, v *string) []byte {
			if v == nil {
				return append(w, "NULL"...)
			}
			return appendElement(w, *v)
		})
	case [][]byte:
		w = appendArray(w, a, func(w []byte, v []byte) []byte {
			return append(hex.AppendEncode(append(w, `"\\x`...), v), '"')
		})
	default:
		panic(fmt.Sprintf("an argument of type %T", arg))
	}
	return w, false, bytes.IndexByte(w[from:], 0) < 0
}

func appendArray[T any](w []byte, all []T, element func([]byte, T) []byte) []byte {
	w = append(w, '{')
	for i, v := range all {
		if i > 0 {
			w = append(w, ',')
		}
		w = element(w, v)
	}
	return append(w, '}')
}

// appendElement appends a text as one element of an array.
func appendElement(w []byte, text string) []byte {
	w = append(w, '"')
	for i := range len(text) {
		if text[i] == '"' || text[i] == '\\' {
			w = append(w, '\\')
		}
		w = append(w, text[i])
	}
	return append(w, '"')
}
