package ledger

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/perdure/perdure/examples/library/library"
	"github.com/perdure/perdure/store"
)

// recordBytesMax bounds one record. It also bounds the search for the end of a quote that
// is not closed.
const recordBytesMax = 64 << 10

// A record is one row of a CSV file by RFC 4180: fields between commas; quoted fields may
// contain commas, line breaks and doubled quotes. The package encoding/csv is not used
// because it treats the whole rest of the file as one field after a quote that is not
// closed.
type record struct {
	text   []byte // the whole text, with its line end
	line   int
	fields []string
	broken string // the error in its quotes, or empty
}

// several reports whether the record spans more than one line.
func (r *record) several() bool {
	return bytes.IndexByte(r.text[:len(r.text)-1], '\n') >= 0
}

// cut splits the first record off a text that is not empty. If its quotes are broken, the
// record is the first line.
func cut(text []byte) record {
	fields := make([]string, 0, 1+bytes.Count(line(text), []byte{','}))
	rest := text[:min(len(text), recordBytesMax)]
	for {
		var value string
		var size int
		if rest[0] == '"' {
			var broken string
			if value, size, broken = cutQuoted(rest); broken != "" {
				return firstLine(text, broken)
			}
		} else {
			if size = bytes.IndexAny(rest, ",\n"); size < 0 {
				size = len(rest)
			}
			value = string(bytes.TrimSuffix(rest[:size], []byte{'\r'}))
			if strings.IndexByte(value, '"') >= 0 {
				return firstLine(text, "a quote inside a field without quotes")
			}
		}
		fields = append(fields, value)
		rest = bytes.TrimPrefix(rest[size:], []byte{'\r'})
		comma := len(rest) > 0 && rest[0] == ','
		if len(rest) > 0 {
			rest = rest[1:]
		}
		if comma && (len(rest) == 0) { // the last field is empty and has no line end
			fields = append(fields, "")
		}
		if !comma || len(rest) == 0 {
			break
		}
	}
	size := min(len(text), recordBytesMax) - len(rest)
	if size == recordBytesMax && text[size-1] != '\n' {
		return firstLine(text, fmt.Sprintf("a row of more than %d bytes", recordBytesMax))
	}
	return record{text: text[:size], fields: fields}
}

// cutQuoted splits off the field in quotes at the beginning of rest. It must be followed by
// a comma or by the end of the record.
func cutQuoted(rest []byte) (value string, size int, broken string) {
	var b strings.Builder
	for size = 1; ; {
		end := bytes.IndexByte(rest[size:], '"')
		if end < 0 {
			return "", 0, "a quote that is not closed"
		}
		b.Write(rest[size : size+end])
		size += end + 1
		if size == len(rest) || rest[size] != '"' {
			break
		}
		b.WriteByte('"')
		size++
	}
	after := bytes.TrimPrefix(rest[size:], []byte{'\r'})
	if len(after) > 0 && after[0] != ',' && after[0] != '\n' {
		return "", 0, "text after a closing quote"
	}
	return b.String(), size, ""
}

// firstLine returns the first line of a text as a broken record.
func firstLine(text []byte, broken string) record {
	return record{text: line(text), broken: broken}
}

// line returns the first line of a text, with its end.
func line(text []byte) []byte {
	if end := bytes.IndexByte(text, '\n'); end >= 0 {
		return text[:end+1]
	}
	return text
}

// checkNames returns the error in the names of a loan, or an empty string.
func checkNames(l *Loan) string {
	for _, n := range []struct {
		what, value string
		bytesMax    int
	}{
		{"book", l.Book, store.IDBytesMax},
		{"borrower", l.Borrower, library.NameBytesMax},
		{"loan id", l.ID, library.NameBytesMax},
	} {
		if len(n.value) > n.bytesMax {
			return fmt.Sprintf("%s of %d bytes, at most %d are allowed", n.what, len(n.value), n.bytesMax)
		}
	}
	return ""
}

// parseTime parses a date, or a date and a time, which is in UTC if it has no zone. The
// length of the text selects the layout, because every failed attempt with a layout
// allocates an error.
func parseTime(s string) (time.Time, bool) {
	const date, minute, second = len("2006-01-02"), len("2006-01-02T15:04"), len("2006-01-02T15:04:05")
	if len(s) > date && s[date] == ' ' {
		s = s[:date] + "T" + s[date+1:]
	}
	layout := time.RFC3339
	switch len(s) {
	case date:
		layout = time.DateOnly
	case minute:
		layout = "2006-01-02T15:04"
	case second:
		layout = "2006-01-02T15:04:05"
	}
	t, err := time.Parse(layout, s)
	t = t.UTC()
	return t, err == nil && 1 <= t.Year() && t.Year() <= 9999
}
