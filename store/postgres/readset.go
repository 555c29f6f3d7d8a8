package postgres

import (
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/store"
)

// Keys of records that are not entities.
type (
	timerKey      struct{ kind, id, name string }
	receiptKey    struct{ kind, id, name string }
	checkpointKey struct {
		name      string
		partition int
	}
)

// An entityHead is the version, last position and snapshots of an entity as the transaction
// sees them.
type entityHead struct {
	version   store.Version
	position  store.Position  // position of the last event
	saved     bool            // version is that of a saved state, not of an event
	listed    bool            // snapshots is complete
	snapshots []store.Version // versions of the kept snapshots, ascending
}

// A readSet holds the keys of all rows that a group of batches depends on, each key once. The
// transaction reads their values into a [readValues].
//
// A committer reuses the buffers of both for the next group.
type readSet struct {
	entities   orderedSet[store.Key]
	firstBatch []*store.Batch // first batch of each entity
	values     []entityHead   // buffer for the entities of readValues
	snapshots  map[store.Key]bool
	heads      orderedSet[int] // partitions whose head is needed
	messages   orderedSet[uint64]
	timers     orderedSet[timerKey]
	receipts   orderedSet[receiptKey]
	claims     orderedSet[store.Claim]
	events     int // number of events to append
	sequences  int // number of messages to enqueue
	// mustRead is true if the batches depend on rows that are never cached (timers,
	// claims), or settle a message in a way that requires its row to be read.
	mustRead   bool
	checksOnly bool // all batches only check versions
}

// An orderedSet is a set that keeps the order in which its keys were first added.
type orderedSet[K comparable] struct {
	all  []K
	seen map[K]int // index of each key in all
}

// add adds k and reports whether k is new.
func (l *orderedSet[K]) add(k K) bool {
	if _, ok := l.seen[k]; ok {
		return false
	}
	if l.seen == nil {
		l.seen = make(map[K]int)
	}
	l.seen[k] = len(l.all)
	l.all = append(l.all, k)
	return true
}

// keysKept bounds the buffers that a read set keeps for reuse, in entities.
const keysKept = 4096

// reset empties the read set and keeps its buffers.
func (n *readSet) reset() {
	keys, first, values := n.entities, n.firstBatch, n.values
	*n = readSet{checksOnly: true}
	if len(keys.all) > keysKept {
		return
	}
	clear(keys.all)
	clear(keys.seen)
	clear(first)
	n.entities = orderedSet[store.Key]{keys.all[:0], keys.seen}
	n.firstBatch, n.values = first[:0], values
}

// add adds the keys that a batch depends on.
func (n *readSet) add(b *store.Batch, partitions int) {
	n.checksOnly = n.checksOnly && b.IsCheck()
	if !b.Key.IsZero() && n.entities.add(b.Key) {
		n.firstBatch = append(n.firstBatch, b)
	}
	if n.events += len(b.Events); len(b.Events) > 0 {
		n.heads.add(store.PartitionOf(b.Key, partitions))
	}
	if b.Snapshot != nil {
		if n.snapshots == nil {
			n.snapshots = make(map[store.Key]bool)
		}
		n.snapshots[b.Key] = true
	}
	for i := range b.Settle {
		n.messages.add(b.Settle[i].Sequence)
		n.mustRead = n.mustRead || b.Settle[i].Required || b.Settle[i].Conditional || b.Settle[i].Message != nil
	}
	for _, name := range b.Cancel {
		n.timers.add(timerKey{b.Key.Kind, b.Key.ID, name})
	}
	for i := range b.Enqueue {
		if name := b.Enqueue[i].Timer; name != "" {
			n.timers.add(timerKey{b.Key.Kind, b.Key.ID, name})
		}
	}
	n.sequences += len(b.Enqueue)
	for _, name := range b.Forget {
		n.receipts.add(receiptKey{b.Key.Kind, b.Key.ID, name})
	}
	for i := range b.Receipts {
		n.receipts.add(receiptKey{b.Key.Kind, b.Key.ID, b.Receipts[i].Name})
	}
	for _, c := range b.Release {
		n.claims.add(c)
	}
	for _, c := range b.Claim {
		n.claims.add(c)
	}
	n.mustRead = n.mustRead || len(n.timers.all)+len(n.claims.all) > 0
}

// readValues are the values that a transaction has read for its read set. A record that exists is
// never nil, even if it is empty.
type readValues struct {
	clock    int64
	sequence uint64 // last message sequence before the reserved ones
	keys     *orderedSet[store.Key]
	entities []entityHead // in the order of keys
	heads    map[int]uint64
	messages map[uint64][]byte
	timers   map[timerKey]uint64
	receipts map[receiptKey]bool
	claims   map[store.Claim][]byte
}

// The statements that read the values of a read set. Each searches an index once for each of its
// keys, and returns no row for a key that does not exist.
const (
	// sqlLock takes the lock of the log, and returns the mark of the session, see
	// [errSessionMoved].
	sqlLock = `SELECT pg_advisory_xact_lock($1), coalesce(current_setting('perdure.session', true), '')`

	// A committer's writes take effect only if this setting of the transaction is on, see
	// [cache]. A guard that does not hold is therefore no error, and a statement that
	// arrives outside of its transaction writes nothing.
	sqlHold     = `SELECT set_config('perdure.held', 'on', true)`
	sqlLockHeld = `SELECT pg_advisory_xact_lock($1),
		set_config('perdure.held', CASE WHEN current_setting('perdure.session', true) = $2 THEN 'on' ELSE 'off' END, true)`
	sqlIfHeld = `current_setting('perdure.held', true) = 'on'`

	sqlClock = `SELECT (SELECT last_value FROM S.clock),
		CASE WHEN $1::bigint > 0 AND NOT unfinished THEN setval('S.message_sequence', nextval('S.message_sequence') + $1::bigint - 1) ELSE 0 END,
		unfinished, info FROM S.log`

	sqlEntities = `SELECT k.n, e.version, e.position, s.version
		FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS k (kind, id, n)
		LEFT JOIN LATERAL (SELECT version, position FROM S.events v WHERE v.kind = k.kind AND v.id = k.id
			ORDER BY v.version DESC LIMIT 1) e ON true
		LEFT JOIN LATERAL (SELECT version FROM S.states t WHERE e.version IS NULL AND t.kind = k.kind AND t.id = k.id
			LIMIT 1) s ON true
		WHERE e.version IS NOT NULL OR s.version IS NOT NULL`

	sqlSnapshots = `SELECT k.n, s.version
		FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS k (kind, id, n)
		JOIN S.snapshots s ON s.kind = k.kind AND s.id = k.id ORDER BY k.n, s.version`

	sqlHeads = `SELECT p.n, e.position
		FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS p (zero, last, n)
		JOIN LATERAL (SELECT position FROM S.events v WHERE v.position > p.zero AND v.position <= p.last
			ORDER BY v.position DESC LIMIT 1) e ON true`

	sqlMessages = `SELECT m.sequence, m.record FROM unnest($1::bigint[]) AS k (sequence)
		JOIN S.messages m ON m.sequence = k.sequence`

	sqlTimers = `SELECT k.n, m.sequence, m.record
		FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS k (kind, id, name, n)
		JOIN S.messages m ON m.kind = k.kind AND m.id = k.id AND m.timer = k.name AND m.timer IS NOT NULL`

	sqlReceipts = `SELECT k.n FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS k (kind, id, name, n)
		JOIN S.receipts r ON r.kind = k.kind AND r.id = k.id AND r.name = k.name`

	sqlClaims = `SELECT k.n, c.record FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS k (space, value, n)
		JOIN S.claims c ON c.space = k.space AND c.value = k.value`
)

// queue adds the statements that read the values to a pgx batch. Their results go to f.
func (n *readSet) queue(b *pgx.Batch, l *Log, f *readValues) {
	s := &l.statements
	b.Queue(s.clock, n.sequences).QueryRow(func(row pgx.Row) error {
		var last int64
		var unfinished bool
		var info []byte
		if err := row.Scan(&f.clock, &last, &unfinished, &info); err != nil {
			return err
		}
		if err := l.requireSameLog(info); err != nil {
			return err
		}
		if unfinished {
			return store.ErrUnfinished
		}
		f.sequence = uint64(last) - uint64(n.sequences)
		return nil
	})
	n.queueEntities(b, s, f)
	if len(n.heads.all) > 0 {
		n.queueHeads(b, s, f)
	}
	n.queueOutbox(b, s, f)
	n.queueNames(b, s, f)
}

// queueOutbox adds the statements that read messages and timers.
func (n *readSet) queueOutbox(b *pgx.Batch, s *statements, f *readValues) {
	if len(n.messages.all) > 0 {
		sequences := make([]int64, len(n.messages.all))
		for i, seq := range n.messages.all {
			sequences[i] = int64(seq)
		}
		b.Queue(s.messages, sequences).Query(func(rows pgx.Rows) error {
			var sequence int64
			var record []byte
			_, err := pgx.ForEachRow(rows, []any{&sequence, &record}, func() error {
				f.messages[uint64(sequence)] = nonNil(record)
				record = nil
				return nil
			})
			return err
		})
	}
	if len(n.timers.all) > 0 {
		kinds, ids, names := triples(n.timers.all, func(k timerKey) (string, string, string) { return k.kind, k.id, k.name })
		b.Queue(s.timers, kinds, ids, names).Query(func(rows pgx.Rows) error {
			var i, sequence int64
			var record []byte
			_, err := pgx.ForEachRow(rows, []any{&i, &sequence, &record}, func() error {
				f.timers[n.timers.all[i-1]] = uint64(sequence)
				f.messages[uint64(sequence)] = nonNil(record)
				record = nil
				return nil
			})
			return err
		})
	}
}

// queueNames adds the statements that read receipts and claims.
func (n *readSet) queueNames(b *pgx.Batch, s *statements, f *readValues) {
	if len(n.receipts.all) > 0 {
		kinds, ids, names := triples(n.receipts.all, func(k receiptKey) (string, string, string) { return k.kind, k.id, k.name })
		b.Queue(s.receipts, kinds, ids, names).Query(func(rows pgx.Rows) error {
			var i int64
			_, err := pgx.ForEachRow(rows, []any{&i}, func() error {
				f.receipts[n.receipts.all[i-1]] = true
				return nil
			})
			return err
		})
	}
	if len(n.claims.all) > 0 {
		spaces, values, _ := triples(n.claims.all, func(c store.Claim) (string, string, string) { return c.Space, c.Value, "" })
		b.Queue(s.claims, spaces, values).Query(func(rows pgx.Rows) error {
			var i int64
			var record []byte
			_, err := pgx.ForEachRow(rows, []any{&i, &record}, func() error {
				f.claims[n.claims.all[i-1]] = nonNil(record)
				record = nil
				return nil
			})
			return err
		})
	}
}

// queueEntities adds the statements that read the versions and snapshots of entities.
func (n *readSet) queueEntities(b *pgx.Batch, s *statements, f *readValues) {
	if len(n.entities.all) > 0 {
		kinds, ids, _ := triples(n.entities.all, keyParts)
		b.Queue(s.entities, kinds, ids).Query(func(rows pgx.Rows) error {
			var i int64
			var version, position, saved *int64
			_, err := pgx.ForEachRow(rows, []any{&i, &version, &position, &saved}, func() error {
				e := &f.entities[i-1]
				if version != nil {
					e.version, e.position = store.Version(*version), store.Position(*position)
				} else {
					e.version, e.saved = store.Version(*saved), true
				}
				return nil
			})
			return err
		})
	}
	if len(n.snapshots) > 0 {
		var keys []store.Key
		for _, k := range n.entities.all {
			if n.snapshots[k] {
				keys = append(keys, k)
			}
		}
		kinds, ids, _ := triples(keys, keyParts)
		b.Queue(s.snapshots, kinds, ids).Query(func(rows pgx.Rows) error {
			var i, version int64
			_, err := pgx.ForEachRow(rows, []any{&i, &version}, func() error {
				e := f.head(keys[i-1])
				e.snapshots = append(e.snapshots, store.Version(version))
				return nil
			})
			for _, k := range keys {
				f.head(k).listed = true
			}
			return err
		})
	}
}

func (n *readSet) queueHeads(b *pgx.Batch, s *statements, f *readValues) {
	zero, last := make([]int64, len(n.heads.all)), make([]int64, len(n.heads.all))
	for i, p := range n.heads.all {
		zero[i], last[i] = int64(store.NewPosition(p, 0)), int64(store.LastPosition(p))
	}
	b.Queue(s.heads, zero, last).Query(func(rows pgx.Rows) error {
		var i, position int64
		_, err := pgx.ForEachRow(rows, []any{&i, &position}, func() error {
			f.heads[n.heads.all[i-1]] = store.Position(position).Sequence()
			return nil
		})
		return err
	})
}

// newReadValues returns empty values for the read set.
func newReadValues(n *readSet) *readValues {
	n.values = slices.Grow(n.values[:0], len(n.entities.all))[:len(n.entities.all)]
	clear(n.values)
	return &readValues{
		keys: &n.entities, entities: n.values, heads: make(map[int]uint64),
		messages: make(map[uint64][]byte), timers: make(map[timerKey]uint64),
		receipts: make(map[receiptKey]bool), claims: make(map[store.Claim][]byte),
	}
}

// head returns the version of an entity that is in the read set. An entity without rows is
// at version 0.
func (f *readValues) head(key store.Key) *entityHead { return &f.entities[f.keys.seen[key]] }

// nonNil returns a record that exists. It turns nil into an empty slice.
func nonNil(record []byte) []byte {
	if record == nil {
		return []byte{}
	}
	return record
}

func keyParts(k store.Key) (kind, id, none string) { return k.Kind, k.ID, "" }

// triples splits keys into up to three columns.
func triples[K any](keys []K, parts func(K) (string, string, string)) (a, b, c []string) {
	a, b, c = make([]string, len(keys)), make([]string, len(keys)), make([]string, len(keys))
	for i, k := range keys {
		a[i], b[i], c[i] = parts(k)
	}
	return a, b, c
}

// statements are the texts of all statements that run often. They contain the schema.
type statements struct {
	clock, entities, snapshots, heads, messages, timers, receipts, claims string
	validate, validateEntities, validateReceipts, drawn                   string

	insertEvents, copyEvents, copyMessages, copyReceipts                    string
	deleteSnapshots, putSnapshots, putStates                                string
	deleteMessages, addMessages, changeMessages                             string
	deleteReceipts, addReceipts                                             string
	deleteClaims, addClaims, deleteCheckpoints, putCheckpoints              string
	proof, trim, depart                                                     string
	load, stream, scan, first, pending, undelivered, parked, receipt, owner string
	receiptsOf, claimsOf, checkpoints, deletions, pruned                    string
}
