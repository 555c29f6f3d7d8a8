package postgres

import (
	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// The statements that store a write set.
const (
	sqlDeleteSnapshots = `DELETE FROM S.snapshots s USING unnest($1::text[], $2::text[], $3::bigint[]) AS k (kind, id, version)
		WHERE s.kind = k.kind AND s.id = k.id AND s.version = k.version AND ` + sqlIfHeld
	sqlPutSnapshots = `INSERT INTO S.snapshots (kind, id, version, record)
		SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[]) WHERE ` + sqlIfHeld + `
		ON CONFLICT (kind, id, version) DO UPDATE SET record = excluded.record`
	sqlPutStates = `INSERT INTO S.states (kind, id, version, record)
		SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[]) WHERE ` + sqlIfHeld + `
		ON CONFLICT (kind, id) DO UPDATE SET version = excluded.version, record = excluded.record`

	sqlDeleteMessages = `DELETE FROM S.messages m USING unnest($1::bigint[]) AS k (sequence) WHERE m.sequence = k.sequence AND ` + sqlIfHeld
	// sqlAddMessages only adds rows. If a sequence is behind its messages, the key of a new row
	// exists already, and the transaction fails instead of replacing a message.
	sqlAddMessages = `INSERT INTO S.messages (sequence, due, parked, kind, id, timer, record)
		SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::boolean[], $4::text[], $5::text[], $6::text[], $7::bytea[]) WHERE ` + sqlIfHeld
	sqlChangeMessages = `UPDATE S.messages m SET due = k.due, parked = k.parked, halted = k.halted, record = k.record
		FROM unnest($1::bigint[], $2::bigint[], $3::boolean[], $4::boolean[], $5::bytea[]) AS k (sequence, due, parked, halted, record)
		WHERE m.sequence = k.sequence AND ` + sqlIfHeld

	sqlDeleteReceipts = `DELETE FROM S.receipts r USING unnest($1::text[], $2::text[], $3::text[]) AS k (kind, id, name)
		WHERE r.kind = k.kind AND r.id = k.id AND r.name = k.name AND ` + sqlIfHeld
	sqlAddReceipts = `INSERT INTO S.receipts (kind, id, name, record)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[]) WHERE ` + sqlIfHeld

	sqlDeleteClaims = `DELETE FROM S.claims c USING unnest($1::text[], $2::text[]) AS k (space, value)
		WHERE c.space = k.space AND c.value = k.value AND ` + sqlIfHeld
	sqlAddClaims = `INSERT INTO S.claims (space, value, record)
		SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[]) WHERE ` + sqlIfHeld

	sqlDeleteCheckpoints = `DELETE FROM S.bookmarks b USING unnest($1::text[], $2::int[]) AS k (name, partition)
		WHERE b.name = k.name AND b.partition = k.partition AND ` + sqlIfHeld
	sqlPutCheckpoints = `INSERT INTO S.bookmarks (name, partition, record)
		SELECT * FROM unnest($1::text[], $2::int[], $3::bytea[])
		ON CONFLICT (name, partition) DO UPDATE SET record = excluded.record`
	sqlMoveCheckpoints = `INSERT INTO S.bookmarks (name, partition, record)
		SELECT * FROM unnest($1::text[], $2::int[], $3::bytea[]) WHERE ` + sqlIfHeld + `
		ON CONFLICT (name, partition) DO UPDATE SET record = excluded.record`

	sqlProof = `INSERT INTO S.commits (writer, serial) SELECT $1::uuid, $2::bigint
		WHERE CASE WHEN ` + sqlIfHeld + ` THEN setval('S.clock', $3::bigint) IS NOT NULL ELSE false END`
	// sqlTrim keeps the first row of a writer.
	sqlTrim   = `DELETE FROM S.commits WHERE writer = $1::uuid AND serial > $2::bigint AND serial < $3::bigint AND ` + sqlIfHeld
	sqlDepart = `DELETE FROM S.commits WHERE writer = $1::uuid`
)

// recordRoom is the initial buffer for a record besides its payload. Most records fit.
const recordRoom = 512

// queue adds the statements that store the write set to a request. It deletes rows before it puts
// others in their place.
func (p *writeSet) queue(out *request, s *statements) {
	out.events = p.events
	if len(p.drops)+len(p.puts) > 0 {
		p.queueStates(out, s)
	}
	if len(p.changed.messages) > 0 {
		p.queueMessages(out, s)
	}
	if len(p.changed.receipts) > 0 {
		var gone, put columns
		for k, r := range p.changed.receipts {
			if r == nil || p.forgotten[k] {
				gone.add(nil, k.kind, k.id, k.name)
			}
			if r != nil {
				put.add(store.AppendReceipt(nil, r), k.kind, k.id, k.name)
			}
		}
		gone.queue(out, s.deleteReceipts, false)
		put.copied = s.copyReceipts
		put.queue(out, s.addReceipts, true)
	}
	if len(p.changed.claims) > 0 {
		var gone, put columns
		for c, owned := range p.changed.claims {
			if owned == nil || p.claims[c] != nil { // the claim had another owner
				gone.add(nil, c.Space, c.Value)
			}
			if owned != nil {
				put.add(store.AppendClaimed(nil, owned), c.Space, c.Value)
			}
		}
		gone.queue(out, s.deleteClaims, false)
		put.queue(out, s.addClaims, true)
	}
	if len(p.changed.checkpoints) > 0 {
		p.queueCheckpoints(out, s)
	}
}

// columns are the columns of rows that have text keys, and the rows' records.
type columns struct {
	texts   [3][]string
	width   int
	copied  string // COPY statement that stores the same rows
	records [][]byte
}

func (c *columns) add(record []byte, texts ...string) {
	for i, t := range texts {
		c.texts[i] = append(c.texts[i], t)
	}
	c.width = len(texts)
	c.records = append(c.records, record)
}

// queue adds a statement for the rows to a request, if there are any.
func (c *columns) queue(out *request, sql string, records bool) {
	if len(c.records) == 0 {
		return
	}
	args := make([]any, 0, len(c.texts)+1)
	for _, t := range c.texts[:c.width] {
		args = append(args, t)
	}
	if records {
		args = append(args, c.records)
	}
	out.addCopied(c.copied, sql, args...)
}

func (p *writeSet) queueStates(out *request, s *statements) {
	if len(p.drops) > 0 {
		var kinds, ids []string
		var versions []int64
		for k := range p.drops {
			kinds, ids, versions = append(kinds, k.key.Kind), append(ids, k.key.ID), append(versions, int64(k.version))
		}
		out.add(s.deleteSnapshots, kinds, ids, versions)
	}
	for _, saved := range []bool{false, true} {
		var kinds, ids []string
		var versions []int64
		var records [][]byte
		for k, st := range p.puts {
			if (k.version == 0) != saved {
				continue
			}
			kinds, ids, versions = append(kinds, k.key.Kind), append(ids, k.key.ID), append(versions, int64(st.Version))
			records = append(records, store.AppendState(make([]byte, 0, recordRoom+len(st.Payload)), st))
		}
		switch {
		case len(records) == 0:
		case saved:
			out.add(s.putStates, kinds, ids, versions, records)
		default:
			out.add(s.putSnapshots, kinds, ids, versions, records)
		}
	}
}

func (p *writeSet) queueMessages(out *request, s *statements) {
	var gone []int64
	var added, changed messageRows
	for sequence, m := range p.changed.messages {
		switch {
		case m == nil:
			gone = append(gone, int64(sequence))
		case sequence >= p.first:
			added.add(m)
		default:
			changed.add(m)
		}
	}
	if len(gone) > 0 {
		out.add(s.deleteMessages, gone)
	}
	if a := &added; len(a.records) > 0 {
		out.addCopied(s.copyMessages, s.addMessages, a.sequences, a.dues, a.parked, a.kinds, a.ids, a.timers, a.records)
	}
	if c := &changed; len(c.records) > 0 {
		out.add(s.changeMessages, c.sequences, c.dues, c.parked, c.halted, c.records)
	}
}

// messageRows are the columns of outbox rows.
type messageRows struct {
	sequences, dues []int64
	parked, halted  []bool // new messages are not halted
	kinds, ids      []string
	timers          []*string
	records         [][]byte
}

func (r *messageRows) add(m *store.Message) {
	r.sequences, r.dues, r.parked = append(r.sequences, int64(m.Sequence)), append(r.dues, storecore.DueKey(m.Due)), append(r.parked, m.Parked)
	r.halted = append(r.halted, m.Halted)
	r.kinds, r.ids = append(r.kinds, m.Source.Kind), append(r.ids, m.Source.ID)
	var timer *string
	if m.Timer != "" {
		timer = &m.Timer
	}
	r.timers = append(r.timers, timer)
	r.records = append(r.records, store.AppendMessage(make([]byte, 0, recordRoom+len(m.Payload)), m))
}

func (p *writeSet) queueCheckpoints(out *request, s *statements) {
	var gone, put []string
	var goneIn, putIn []int32
	var records [][]byte
	for k, m := range p.changed.checkpoints {
		if m == nil {
			gone, goneIn = append(gone, k.name), append(goneIn, int32(k.partition))
			continue
		}
		put, putIn = append(put, k.name), append(putIn, int32(k.partition))
		records = append(records, store.AppendCheckpoint(nil, m))
	}
	if len(gone) > 0 {
		out.add(s.deleteCheckpoints, gone, goneIn)
	}
	if len(put) > 0 {
		out.addOpen(s.putCheckpoints, put, putIn, records)
	}
}
