package postgres_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

const (
	pageBytes  = 8192
	pageEvents = 600 // of each log with a damaged page
)

// A pageCase is a log, and the pages of its files that the test damages while the server is
// stopped.
type pageCase struct {
	name string
	// file is the relation, such as events or events_position. page is the number of the damaged
	// page, counted from the end if it is negative.
	file string
	page int
	// vacuum makes the server note that all rows of its pages are visible, so that it can answer
	// some queries from an index alone.
	vacuum bool
	// analyze makes the server collect statistics, with which its planner reads the ends of an
	// index.
	analyze bool
	// index is true if only an index is damaged, so that no record is lost.
	index bool
	// kept is true if no event is lost.
	kept bool
}

var pageCases = []pageCase{
	{name: "in the middle of the events", file: "events", page: 5},
	{name: "of the first events", file: "events", page: 0, vacuum: true},
	{name: "of the last events", file: "events", page: -1},
	{name: "of large events", file: "TOAST", page: 7},
	{name: "of the positions", file: "events_position", page: 1, index: true},
	{name: "of the positions of analyzed events", file: "events_position", page: 1, index: true, analyze: true},
	{name: "of the versions", file: "events_version", page: 2, index: true},
	{name: "of the root of the positions", file: "events_position", page: 3, index: true},
	{name: "of the root of the positions of analyzed events", file: "events_position", page: 3, index: true, analyze: true},
	{name: "of the messages", file: "messages", page: 1, kept: true},
	{name: "of the messages that are all visible", file: "messages", page: 1, kept: true, vacuum: true},
	{name: "of the receipts", file: "receipts", page: 0, kept: true},
	{name: "of the snapshots", file: "snapshots", page: 0, kept: true},
	{name: "of the bookmarks", file: "bookmarks", page: 0, kept: true},
}

// pageLog fills a log. It returns the events by position, and the name of the damaged file.
func pageLog(t *testing.T, p place, c *pageCase) (events map[store.Position]*store.Event, file string, page int64, lost []int64) {
	t.Helper()
	l := openAt(t, p)
	var group []*store.Batch
	for i := range pageEvents {
		k := key(fmt.Sprint("entity ", i%7))
		b := rich(k, store.Version(i/7), fmt.Sprint("event ", i))
		b.Enqueue[0].Timer = ""
		if i%20 == 3 { // out of line
			b.Events[0].Payload = bytes.Repeat([]byte(fmt.Sprintf("%8d", i)), 900)
		}
		group = append(group, b)
	}
	results, err := l.Commit(t.Context(), group)
	for i := range results {
		err = errors.Join(err, results[i].Err)
	}
	if err != nil {
		t.Fatalf("fill %s: %v", c.name, err)
	}
	events = make(map[store.Position]*store.Event)
	for e, err := range l.Scan(t.Context(), store.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		events[e.Position] = e.Clone()
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, p.db)
	relation := fmt.Sprintf("'%s.%s'::regclass", p.schema, c.file)
	if c.file == "TOAST" {
		relation = fmt.Sprintf("(SELECT reltoastrelid::regclass FROM pg_class WHERE oid = '%s.events'::regclass)", p.schema)
	}
	var size int64
	if err := conn.QueryRow(t.Context(), fmt.Sprintf("SELECT pg_relation_filepath(%[1]s), pg_relation_size(%[1]s)", relation)).Scan(&file, &size); err != nil {
		t.Fatal(err)
	}
	page = int64(c.page)
	if page < 0 {
		page += size / pageBytes
	}
	if page >= size/pageBytes {
		t.Fatalf("%s: page %d of %d", c.name, page, size/pageBytes)
	}
	if number := map[string]string{"events": "position", "messages": "sequence"}[c.file]; number != "" {
		rows, err := conn.Query(t.Context(), postgres.In(p.schema, fmt.Sprintf(
			"SELECT %[1]s FROM S.%[2]s WHERE ctid >= '(%[3]d,0)'::tid AND ctid < '(%[4]d,0)'::tid ORDER BY %[1]s", number, c.file, page, page+1)))
		if err == nil {
			lost, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if c.analyze {
		p.exec(t, "ANALYZE S.events")
	}
	if c.vacuum {
		p.exec(t, "VACUUM S.events; ")
		p.exec(t, "VACUUM S.messages")
	}
	return events, file, page, lost
}

// TestDamagedPages damages a page of each kind of file. Scans must name the lost positions and
// continue after them, and verifications and copies must report all of them.
func TestDamagedPages(t *testing.T) {
	t.Parallel()
	longOnly(t)
	s := pgtest.Start(t)
	db := s.Database(t)
	type filled struct {
		place
		events map[store.Position]*store.Event
		file   string
		page   int64
		lost   []int64
	}
	logs := make([]filled, len(pageCases))
	for i := range pageCases {
		f := &logs[i]
		f.place = place{db, fmt.Sprint("pages_", i)}
		f.events, f.file, f.page, f.lost = pageLog(t, f.place, &pageCases[i])
	}
	healthy := place{db, "healthy"}
	pageLog(t, healthy, &pageCase{file: "events"})
	s.Stop(t, "fast")
	s.Checksums(t)
	for i := range logs {
		s.Overwrite(t, logs[i].file, logs[i].page*pageBytes+pageBytes/2, []byte("not what was written"))
	}
	s.Restart(t)
	if found := faults(t, openAt(t, healthy, postgres.ReadOnly())); found != "" {
		t.Errorf("faults of a log without damage: %s", found)
	}
	for i, c := range pageCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := &logs[i]
			l := openAt(t, f.place, postgres.ReadOnly())
			checkPageScan(t, l, &c, f.events, f.lost)
			checkPageVerify(t, l, &c, f.events, f.lost)
			checkPageCopy(t, l, &c, f.events)
			checkPageReads(t, l, &c, f.events)
		})
	}
}

// checkPageScan scans a log from each lost event to the end.
func checkPageScan(t *testing.T, l store.Log, c *pageCase, want map[store.Position]*store.Event, truth []int64) {
	t.Helper()
	found := make(map[store.Position]bool)
	var lost []int64
	after := store.Position(0)
	for range pageEvents + 1 {
		var failure error
		for e, err := range l.Scan(t.Context(), store.Query{After: after}) {
			if failure = err; err != nil {
				break
			}
			if w := want[e.Position]; w == nil || w.ID != e.ID || !bytes.Equal(w.Payload, e.Payload) {
				t.Fatalf("scan: got %v at %v, want %v", e, e.Position, w)
			}
			found[e.Position] = true
		}
		if failure == nil {
			break
		}
		if c.index || c.kept {
			t.Fatalf("scan after %v: got %v, want all events", after, failure)
		}
		damage, ok := errors.AsType[*store.CorruptError](failure)
		if !ok || damage.Position <= after || found[damage.Position] || !strings.Contains(failure.Error(), "invalid page") && c.file != "TOAST" {
			t.Fatalf("scan after %v: got %v, want damage with its position and what the server says", after, failure)
		}
		if len(lost) > 0 && damage.Position == after+1 && damage.Position != store.Position(lost[len(lost)-1]+1) {
			t.Fatalf("scan after %v: got %v again", after, failure)
		}
		after = damage.Position
		lost = append(lost, int64(after))
	}
	if len(found)+len(lost) != len(want) {
		t.Errorf("scan: found %d events and %d lost ones, want %d together", len(found), len(lost), len(want))
	}
	switch {
	case c.kept && len(lost) > 0:
		t.Errorf("scan: got %d lost events, want none", len(lost))
	case c.file == "events" && !slices.Equal(lost, truth):
		t.Errorf("scan: got lost events at %v, want %v", lost, truth)
	case c.file == "TOAST" && (len(lost) == 0 || len(lost) > 4):
		t.Errorf("scan: got lost events at %v, want one to four", lost)
	}
}

// checkPageVerify compares the faults that Verify finds with the lost records.
func checkPageVerify(t *testing.T, l store.Log, c *pageCase, want map[store.Position]*store.Event, truth []int64) {
	t.Helper()
	report, err := admin.Verify(t.Context(), l, admin.VerifyOptions{})
	if err != nil {
		t.Fatalf("verify: %v", err)
	}
	if report.Err() == nil || !report.Files {
		t.Errorf("verify: got %v and files checked %t, want damage, and the rest looked at", report.Err(), report.Files)
	}
	var positions, sequences []int64
	for _, err := range report.Faults {
		c, ok := errors.AsType[*store.CorruptError](err)
		if !ok {
			t.Fatalf("verify: fault %v is no CorruptError", err)
		}
		if m, ok := c.Record.(*store.Message); ok {
			sequences = append(sequences, int64(m.Sequence))
		} else if strings.Contains(c.Reason, "the server cannot read it") && c.Position != 0 {
			positions = append(positions, int64(c.Position))
		}
	}
	switch {
	case c.file == "events" && !slices.Equal(positions, truth):
		t.Errorf("verify: got faults at %v, want %v", positions, truth)
	case c.file == "messages" && !slices.Equal(sequences, truth):
		t.Errorf("verify: got faults of messages %v, want %v", sequences, truth)
	case (c.index || c.kept) && report.Count(store.KindEvent) != int64(len(want)):
		t.Errorf("verify: got %d whole events, want all %d: %v", report.Count(store.KindEvent), len(want), report.Faults)
	}
}

// checkPageCopy copies a log and reads the copy.
func checkPageCopy(t *testing.T, l store.Log, c *pageCase, want map[store.Position]*store.Event) {
	t.Helper()
	to := memory.New()
	report, err := admin.Copy(t.Context(), l, to, nil)
	if err != nil {
		t.Fatalf("copy: %v", err)
	}
	if c.index {
		if report.Damaged+report.Skipped != 0 {
			t.Errorf("copy: got %d damaged records and %d left out, want all that there is", report.Damaged, report.Skipped)
		}
		if found := faults(t, to); found != "" {
			t.Errorf("copy: got faults %s, want none", found)
		}
		return
	}
	if report.Err() == nil || report.Damaged == 0 {
		t.Errorf("copy: got %v and %d damaged records, want damage", report.Err(), report.Damaged)
	}
	if faults(t, to) == "" {
		t.Error("copy: it is called whole")
	}
	missing := maps.Clone(want)
	x, err := to.Export(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	lost := 0
	for r, err := range x.Records(t.Context(), store.KindEvent) {
		if err != nil {
			lost++
			continue
		}
		e := r.(*store.Event)
		if w := want[e.Position]; w == nil || w.ID != e.ID || w.Key != e.Key || !bytes.Equal(w.Payload, e.Payload) {
			t.Fatalf("copy: got %v at %v", e, e.Position)
		}
		delete(missing, e.Position)
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
	if len(missing) != lost || c.kept && lost > 0 {
		t.Errorf("copy: %d events are missing, and %d are damaged records", len(missing), lost)
	}
}

// checkPageReads reads the entities: an error names the entity that was read.
func checkPageReads(t *testing.T, l store.Log, c *pageCase, want map[store.Position]*store.Event) {
	t.Helper()
	damaged := 0
	for i := range 7 {
		k := key(fmt.Sprint("entity ", i))
		for e, err := range l.Read(t.Context(), k, 0) {
			if err == nil {
				if w := want[e.Position]; w == nil || w.ID != e.ID {
					t.Fatalf("read %v: got %v", k, e)
				}
				continue
			}
			damaged++
			if d, ok := errors.AsType[*store.CorruptError](err); !ok || d.Key != k {
				t.Errorf("read %v: got %v, want damage that names the entity", k, err)
			}
		}
	}
	if lost := c.file == "events" || c.file == "TOAST"; lost != (damaged > 0) && !c.index {
		t.Errorf("read: got damage of %d entities", damaged)
	}
}
