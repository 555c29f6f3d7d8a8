package store

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
)

// Field numbers of the message of a receipt. Every command with an idempotency key appends a
// receipt, so this encoding is written by hand too.
const (
	receiptKind        = 1
	receiptEntityID    = 2
	receiptName        = 3
	receiptCommandID   = 4
	receiptFingerprint = 5
	receiptVersion     = 6
	receiptPosition    = 7
	receiptRefusal     = 8
	receiptReplyType   = 9
	receiptReply       = 10
	receiptTime        = 11
	receiptOrder       = 12
)

// AppendReceipt appends the stored form of r, with its checksum, to dst.
func AppendReceipt(dst []byte, r *Receipt) []byte {
	if r.Damage != "" {
		return appendDamaged(dst, r)
	}
	from := len(dst)
	dst = appendString(dst, receiptKind, r.Entity.Kind)
	dst = appendString(dst, receiptEntityID, r.Entity.ID)
	dst = appendString(dst, receiptName, r.Name)
	dst = appendBytes(dst, receiptCommandID, r.CommandID[:])
	dst = appendBytes(dst, receiptFingerprint, r.Fingerprint)
	if r.Version != 0 {
		dst = protowire.AppendVarint(appendTag(dst, receiptVersion, protowire.VarintType), uint64(r.Version))
	}
	if r.Position != 0 {
		dst = appendFixed64(dst, receiptPosition, uint64(r.Position))
	}
	if r.Refusal != nil {
		refusal := appendProtoBody(nil, r.Refusal.Proto())
		dst = append(appendLength(appendTag(dst, receiptRefusal, protowire.BytesType), len(refusal)), refusal...)
	}
	dst = appendString(dst, receiptReplyType, r.ReplyType)
	dst = appendBytes(dst, receiptReply, r.Reply)
	if n := nanos(r.Time); n != 0 {
		dst = appendFixed64(dst, receiptTime, uint64(n))
	}
	if r.Order != 0 {
		dst = protowire.AppendVarint(appendTag(dst, receiptOrder, protowire.VarintType), r.Order)
	}
	return Seal(dst, from)
}

// DecodeReceipt checks and decodes a stored receipt, like [DecodeMessage].
func DecodeReceipt(sealed []byte) (*Receipt, error) {
	var p perdurev1.Receipt
	if err := decodeProto("receipt", sealed, &p); err != nil {
		return nil, err
	}
	return receiptOf(&p), nil
}

func receiptOf(p *perdurev1.Receipt) *Receipt {
	r := &Receipt{
		Entity: Key{p.GetKind(), p.GetEntityId()}, Name: p.GetKey(), Fingerprint: p.GetFingerprint(),
		Version: Version(p.GetVersion()), Position: Position(p.GetPosition()),
		ReplyType: p.GetReplyType(), Reply: p.GetReply(), Time: fromNanos(p.GetTimeUnixNano()), Order: p.GetOrder(),
	}
	copy(r.CommandID[:], p.GetCommandId())
	if f := p.GetRefusal(); f != nil {
		r.Refusal = FromRefusalProto(f)
	}
	return r
}

// DecodeReceiptHead is like [DecodeReceipt], but leaves out the answer: Position, Refusal,
// ReplyType and Reply. It allocates no memory for these.
func DecodeReceiptHead(sealed []byte) (*Receipt, error) {
	b, err := Unseal(sealed)
	if err != nil {
		return nil, &CorruptError{What: "receipt", Reason: err.Error()}
	}
	head := make([]byte, 0, min(len(b), 256))
	for len(b) > 0 {
		number, _, n := protowire.ConsumeField(b)
		if n < 0 {
			return nil, &CorruptError{What: "receipt", Reason: protowire.ParseError(n).Error()}
		}
		switch number {
		case receiptPosition, receiptRefusal, receiptReplyType, receiptReply:
		default:
			head = append(head, b[:n]...)
		}
		b = b[n:]
	}
	var p perdurev1.Receipt
	if err := proto.Unmarshal(head, &p); err != nil {
		return nil, &CorruptError{What: "receipt", Reason: err.Error()}
	}
	return receiptOf(&p), nil
}

// Proto returns the refusal as a protobuf message. It shares the payloads of the details.
func (r *Refusal) Proto() *perdurev1.Refusal {
	p := &perdurev1.Refusal{Code: r.Code, Message: r.Message}
	for _, d := range r.Details {
		p.Details = append(p.Details, &perdurev1.Detail{Type: d.Type, Payload: d.Payload})
	}
	return p
}

// FromRefusalProto is the reverse of [Refusal.Proto].
func FromRefusalProto(p *perdurev1.Refusal) *Refusal {
	r := &Refusal{Code: p.GetCode(), Message: p.GetMessage()}
	if n := len(p.GetDetails()); n > 0 {
		r.Details = make([]Detail, 0, n)
	}
	for _, d := range p.GetDetails() {
		r.Details = append(r.Details, Detail{Type: d.GetType(), Payload: d.GetPayload()})
	}
	return r
}
