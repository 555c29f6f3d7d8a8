package store

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Validate returns an error matching [ErrInvalid] or [ErrTooLarge] if the batch itself has a
// mistake; the error names the mistake and its place. Every store calls Validate before it stores
// anything. Validate also sets [Event.Remaining] of each event.
func (b *Batch) Validate() error {
	switch {
	case b.prepared && b.records() == len(b.Events):
		return nil
	case b.prepared:
	case b.Key.IsZero():
		if b.records() != len(b.Settle)+len(b.Checkpoints) {
			return fmt.Errorf("%w: batch without a key holds more than settlements and checkpoints", ErrInvalid)
		}
		if b.Expected != 0 {
			return fmt.Errorf("%w: batch without a key expects version %d", ErrInvalid, b.Expected)
		}
	default:
		if err := b.Key.Validate(); err != nil {
			return fmt.Errorf("batch of %q: %w", b.Key, err)
		}
	}
	if err := b.validateParts(); err != nil {
		return fmt.Errorf("batch of %v: %w", b.Key, err)
	}
	return nil
}

func (b *Batch) validateParts() error {
	records := b.records()
	if records > BatchRecordsMax {
		if err := b.validateCounts(records); err != nil {
			return err
		}
	}
	if b.Save != nil && len(b.Events) > 0 {
		return fmt.Errorf("%w: it holds both events and a state to save", ErrInvalid)
	}
	if b.Save != nil && b.Snapshot != nil {
		return fmt.Errorf("%w: it holds both a state to save and a snapshot", ErrInvalid)
	}
	if b.Saves > 0 && (b.Save == nil || b.Saves > BatchRecordsMax) {
		return fmt.Errorf("%w: Saves is %d; it is at most %d, and zero without a state to save", ErrInvalid, b.Saves, BatchRecordsMax)
	}
	if b.Snapshot != nil && b.Next() == 0 {
		return fmt.Errorf("%w: it holds a snapshot of version 0", ErrInvalid)
	}
	bytes := 0
	for i := range b.Events {
		e := &b.Events[i]
		if err := e.validate(); err != nil {
			return fmt.Errorf("event %d: %w", i, err)
		}
		e.Remaining = uint32(len(b.Events) - 1 - i)
		bytes += len(e.Payload)
	}
	if records == len(b.Events) && bytes <= BatchBytesMax {
		return nil // most batches end here
	}
	bytesMax, bytesWith := BatchBytesMax, 0
	if len(b.Settle) > 0 {
		bytesMax += batchReplyBytes
	}
	for _, s := range []*State{b.Save, b.Snapshot} {
		if s == nil {
			continue
		}
		err := whole(s.Damage)
		if err == nil {
			err = validateRecord(s.ID, s.Type, s.Payload, &s.Metadata)
		}
		if err != nil {
			return fmt.Errorf("state: %w", err)
		}
		if len(s.Fold) > FoldBytesMax {
			return fmt.Errorf("state: %w: fold of %d bytes, at most %d are allowed", ErrTooLarge, len(s.Fold), FoldBytesMax)
		}
		if s == b.Save {
			bytes += len(s.Payload) + len(s.Fold)
		} else {
			bytesWith += len(s.Payload) + len(s.Fold)
		}
	}
	if len(b.Settle)+len(b.Cancel)+len(b.Enqueue) > 0 {
		n, settled, err := b.validateOutbox()
		if err != nil {
			return err
		}
		bytes, bytesWith = bytes+n, bytesWith+settled
	}
	for i := range b.Receipts {
		r := &b.Receipts[i]
		err := whole(r.Damage)
		if err == nil {
			err = validateName("receipt name", r.Name, NameBytesMax)
		}
		if err != nil {
			return fmt.Errorf("receipt %d: %w", i, err)
		}
		if r.Version > b.Next() {
			return fmt.Errorf("receipt %d: %w: it is of version %d, and the batch ends at version %d", i, ErrInvalid, r.Version, b.Next())
		}
		if len(r.Reply) > PayloadBytesMax {
			return fmt.Errorf("receipt %d: %w: reply of %d bytes, at most %d are allowed", i, ErrTooLarge, len(r.Reply), PayloadBytesMax)
		}
		if slices.ContainsFunc(b.Receipts[:i], func(o Receipt) bool { return o.Name == r.Name }) {
			return fmt.Errorf("receipt %d: %w: a second one is named %q", i, ErrInvalid, r.Name)
		}
		if n := r.Refusal.bytes() + len(r.Fingerprint); n > PayloadBytesMax {
			return fmt.Errorf("receipt %d: %w: refusal and fingerprint of %d bytes, at most %d are allowed", i, ErrTooLarge, n, PayloadBytesMax)
		}
		bytesWith += len(r.Reply) + r.Refusal.bytes() + len(r.Fingerprint)
	}
	for _, name := range b.Forget {
		if err := validateName("receipt name", name, NameBytesMax); err != nil {
			return err
		}
	}
	for _, claims := range [][]Claim{b.Release, b.Claim} {
		for _, c := range claims {
			if err := validateName("claim space", c.Space, NameBytesMax); err != nil {
				return err
			}
			if err := validateName("claim value", c.Value, NameBytesMax); err != nil {
				return err
			}
		}
	}
	for _, m := range b.Checkpoints {
		if err := validateName("checkpoint name", m.Name, NameBytesMax); err != nil {
			return err
		}
		if err := whole(m.Damage); err != nil {
			return fmt.Errorf("checkpoint %q: %w", m.Name, err)
		}
		if strings.HasPrefix(m.Name, DeletionPrefix) {
			return fmt.Errorf("%w: checkpoint %q: names that begin with %q are the store's own", ErrInvalid, m.Name, DeletionPrefix)
		}
	}
	if bytes > bytesMax {
		return fmt.Errorf("%w: %d bytes of payload, at most %d are allowed", ErrTooLarge, bytes, bytesMax)
	}
	if bytesWith > BatchBytesMax {
		return fmt.Errorf("%w: %d bytes of payload beside those of the command, at most %d are allowed", ErrTooLarge, bytesWith, BatchBytesMax)
	}
	return nil
}

// validateCounts checks the number of records.
func (b *Batch) validateCounts(records int) error {
	with := len(b.Settle) + len(b.Forget) + len(b.Receipts) + len(b.Checkpoints)
	if b.Snapshot != nil {
		with++
	}
	recordsMax := BatchRecordsMax
	if len(b.Settle) > 0 {
		recordsMax++
	}
	if n := records - with; n > recordsMax {
		return fmt.Errorf("%w: %d records, at most %d are allowed", ErrTooLarge, n, recordsMax)
	}
	if with > BatchRecordsMax {
		return fmt.Errorf("%w: %d records beside those of the command, at most %d are allowed", ErrTooLarge, with, BatchRecordsMax)
	}
	return nil
}

func (b *Batch) validateOutbox() (bytes, settled int, err error) {
	for i := range b.Settle {
		s := &b.Settle[i]
		if s.Sequence == 0 {
			return 0, 0, fmt.Errorf("settlement %d: %w: sequence is 0", i, ErrInvalid)
		}
		if s.Message == nil {
			continue
		}
		if err := s.Message.validate(); err != nil {
			return 0, 0, fmt.Errorf("settlement %d: %w", i, err)
		}
		settled += len(s.Message.Payload)
	}
	for _, name := range b.Cancel {
		if err := validateName("timer name", name, NameBytesMax); err != nil {
			return 0, 0, err
		}
	}
	for i := range b.Enqueue {
		m := &b.Enqueue[i]
		if err := m.validate(); err != nil {
			return 0, 0, fmt.Errorf("message %d: %w", i, err)
		}
		if m.Halted {
			return 0, 0, fmt.Errorf("message %d: %w: a new message is not halted; a settlement halts it", i, ErrInvalid)
		}
		bytes += len(m.Payload)
	}
	return bytes, settled, nil
}

// whole returns an error if a record is a damaged record: only copies may have these.
func whole(damage string) error {
	if damage != "" {
		return fmt.Errorf("%w: a damaged record cannot be committed: %s", ErrInvalid, damage)
	}
	return nil
}

func (e *Event) validate() error {
	if e.head != nil {
		return nil // Prepare has checked it
	}
	if err := whole(e.Damage); err != nil {
		return err
	}
	if err := validateRecord(e.ID, e.Type, e.Payload, &e.Metadata); err != nil {
		return err
	}
	if len(e.Tags) > TagsMax {
		return fmt.Errorf("%w: %d tags, at most %d are allowed", ErrTooLarge, len(e.Tags), TagsMax)
	}
	for _, t := range e.Tags {
		if err := validateName("tag", t, TagBytesMax); err != nil {
			return err
		}
	}
	return nil
}

func (m *Message) validate() error {
	if err := whole(m.Damage); err != nil {
		return err
	}
	if err := validateRecord(m.ID, m.Type, m.Payload, &m.Metadata); err != nil {
		return err
	}
	if m.Timer != "" {
		if err := validateName("timer name", m.Timer, NameBytesMax); err != nil {
			return err
		}
	}
	if m.ReplyName != "" {
		if err := validateName("reply name", m.ReplyName, NameBytesMax); err != nil {
			return err
		}
	}
	if len(m.LastError) > PayloadBytesMax {
		return fmt.Errorf("%w: last error of %d bytes, at most %d are allowed", ErrTooLarge, len(m.LastError), PayloadBytesMax)
	}
	if m.Halted && (!m.Parked || m.Unordered || m.Timer != "" || !m.Due.IsZero()) {
		return fmt.Errorf("%w: a halted message is parked, ordered and no timer; this one has Parked %t, Unordered %t, Timer %q, Due %v",
			ErrInvalid, m.Parked, m.Unordered, m.Timer, m.Due)
	}
	if m.Every != "" {
		if err := validateName("recurrence", m.Every, NameBytesMax); err != nil {
			return err
		}
	}
	if !m.Due.IsZero() && !inNanos(m.Due) {
		return fmt.Errorf("%w: due time %v is outside the years 1678 to 2262", ErrInvalid, m.Due)
	}
	for _, k := range []Key{m.Target, m.ReplyTo} {
		if k.IsZero() {
			continue
		}
		if err := k.Validate(); err != nil {
			return err
		}
	}
	return nil
}

func validateRecord(id ID, typ string, payload []byte, m *Metadata) error {
	if id.IsZero() {
		return fmt.Errorf("%w: id is zero", ErrInvalid)
	}
	if err := validateName("type", typ, TypeBytesMax); err != nil {
		return err
	}
	if len(payload) > PayloadBytesMax {
		return fmt.Errorf("%w: %s of %d bytes, at most %d are allowed", ErrTooLarge, typ, len(payload), PayloadBytesMax)
	}
	return m.validate()
}

func (m *Metadata) validate() error {
	if len(m.CorrelationID)+len(m.TraceParent)+len(m.TraceState)+len(m.Values) == 0 {
		return nil // most records end here
	}
	n := len(m.CorrelationID) + len(m.TraceParent) + len(m.TraceState)
	for _, s := range []string{m.CorrelationID, m.TraceParent, m.TraceState} {
		if s == "" {
			continue
		}
		if err := validateName("metadata", s, MetadataBytesMax); err != nil {
			return err
		}
	}
	for k, v := range m.Values {
		if err := validateName("metadata key", k, NameBytesMax); err != nil {
			return err
		}
		if v != "" {
			if err := validateName("metadata value of "+k, v, MetadataBytesMax); err != nil {
				return err
			}
		}
		n += len(k) + len(v)
	}
	if n > MetadataBytesMax {
		return fmt.Errorf("%w: metadata of %d bytes, at most %d are allowed", ErrTooLarge, n, MetadataBytesMax)
	}
	return nil
}

// inNanos reports whether t fits in nanoseconds since 1970 as an int64.
func inNanos(t time.Time) bool {
	return t.Equal(time.Unix(0, t.UnixNano()))
}

// ValidateRecord returns an error matching [ErrInvalid] or [ErrTooLarge] if a record cannot come
// from a log, as far as the record alone shows it. The error gives the reason.
func ValidateRecord(r Record) error {
	err := validateShape(r)
	if err != nil {
		return fmt.Errorf("%v %s: %w", r.recordKind(), nameOf(r), err)
	}
	return nil
}

func validateShape(r Record) error {
	if damageOf(r) != "" {
		return validateDamaged(r)
	}
	switch r := r.(type) {
	case *Event:
		if err := r.Key.Validate(); err != nil {
			return err
		}
		if r.Version == 0 || r.Position.Sequence() == 0 {
			return fmt.Errorf("%w: version %d at position %v", ErrInvalid, r.Version, r.Position)
		}
		return r.validate()
	case *State:
		if err := r.Key.Validate(); err != nil {
			return err
		}
		if r.Version == 0 {
			return fmt.Errorf("%w: version 0", ErrInvalid)
		}
		return validateRecord(r.ID, r.Type, r.Payload, &r.Metadata)
	case *Message:
		if r.Sequence == 0 {
			return fmt.Errorf("%w: sequence 0", ErrInvalid)
		}
		if err := r.Source.Validate(); err != nil {
			return err
		}
		return r.validate()
	case *Receipt:
		if err := r.Entity.Validate(); err != nil {
			return err
		}
		return validateName("receipt name", r.Name, NameBytesMax)
	case *Claimed:
		if err := r.Owner.Validate(); err != nil {
			return err
		}
		if err := validateName("claim space", r.Claim.Space, NameBytesMax); err != nil {
			return err
		}
		return validateName("claim value", r.Claim.Value, NameBytesMax)
	case *Checkpoint:
		return validateName("checkpoint name", r.Name, NameBytesMax)
	}
	return fmt.Errorf("%w: a %T", ErrInvalid, r)
}

// nameOf returns a text that names the record, for error messages.
func nameOf(r Record) string {
	switch r := r.(type) {
	case *Event:
		return fmt.Sprintf("%d of %v at %v", r.Version, r.Key, r.Position)
	case *State:
		return fmt.Sprintf("%d of %v", r.Version, r.Key)
	case *Message:
		return fmt.Sprint(r.Sequence)
	case *Receipt:
		return fmt.Sprintf("%q of %v", r.Name, r.Entity)
	case *Claimed:
		return fmt.Sprintf("%q in %q", r.Claim.Value, r.Claim.Space)
	case *Checkpoint:
		return fmt.Sprintf("%q at %v", r.Name, r.Position)
	}
	return ""
}

// validateDamaged is validateShape for a damaged record, of which only the place is checked.
func validateDamaged(r Record) error {
	if n := len(damageOf(r)); n > DamageBytesMax {
		return fmt.Errorf("%w: a reason of %d bytes, at most %d are allowed", ErrTooLarge, n, DamageBytesMax)
	}
	key, invalid := Key{}, false
	switch r := r.(type) {
	case *Event:
		key, invalid = r.Key, r.Version == 0 || r.Position.Sequence() == 0
	case *State:
		key, invalid = r.Key, r.Version == 0
	case *Message:
		key, invalid = r.Source, r.Sequence == 0
	case *Receipt:
		if err := validateName("receipt name", r.Name, NameBytesMax); err != nil {
			return err
		}
		key = r.Entity
	case *Claimed:
		if err := validateName("claim space", r.Claim.Space, NameBytesMax); err != nil {
			return err
		}
		return validateName("claim value", r.Claim.Value, NameBytesMax)
	case *Checkpoint:
		return validateName("checkpoint name", r.Name, NameBytesMax)
	}
	if invalid {
		return fmt.Errorf("%w: a damaged record without a place", ErrInvalid)
	}
	return key.Validate()
}
