package store

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
)

// Field numbers of perdure.v1.Metadata.
const (
	metadataCausationID   = 1
	metadataCorrelationID = 2
	metadataTraceParent   = 3
	metadataTraceState    = 4
	metadataValues        = 5
)

func sizeMetadata(m *Metadata) int {
	n := sizeString(len(m.CorrelationID)) + sizeString(len(m.TraceParent)) + sizeString(len(m.TraceState))
	if !m.CausationID.IsZero() {
		n += sizeString(len(m.CausationID))
	}
	for k, v := range m.Values {
		n += 1 + protowire.SizeBytes(sizeString(len(k))+sizeString(len(v)))
	}
	return n
}

func appendMetadata(dst []byte, m *Metadata) []byte {
	if !m.CausationID.IsZero() {
		dst = appendBytes(dst, metadataCausationID, m.CausationID[:])
	}
	dst = appendString(dst, metadataCorrelationID, m.CorrelationID)
	dst = appendString(dst, metadataTraceParent, m.TraceParent)
	dst = appendString(dst, metadataTraceState, m.TraceState)
	if len(m.Values) == 0 {
		return dst
	}
	for _, k := range slices.Sorted(maps.Keys(m.Values)) { // equal metadata, equal bytes
		v := m.Values[k]
		dst = appendLength(appendTag(dst, metadataValues, protowire.BytesType), sizeString(len(k))+sizeString(len(v)))
		dst = appendString(dst, 1, k)
		dst = appendString(dst, 2, v)
	}
	return dst
}

// metadata decodes b into m.
func (d *Decoder) metadata(b []byte, m *Metadata) (err error) {
	for len(b) > 0 {
		var f field
		if b, err = f.consume(b); err != nil {
			return corruptf("metadata: %v", err)
		}
		switch f.id {
		case metadataCausationID:
			if len(f.bytes) != len(m.CausationID) {
				return corruptf("causation id of %d bytes", len(f.bytes))
			}
			copy(m.CausationID[:], f.bytes)
		case metadataCorrelationID:
			m.CorrelationID = string(f.bytes)
		case metadataTraceParent:
			m.TraceParent = string(f.bytes)
		case metadataTraceState:
			m.TraceState = string(f.bytes)
		case metadataValues:
			var key, value string
			for b := f.bytes; len(b) > 0; {
				var f field
				if b, err = f.consume(b); err != nil {
					return corruptf("metadata values: %v", err)
				}
				switch f.id {
				case 1:
					key = d.name(f.bytes)
				case 2:
					value = string(f.bytes)
				}
			}
			if m.Values == nil {
				m.Values = make(map[string]string)
			}
			m.Values[key] = value
		}
	}
	return nil
}

func metadataProto(m *Metadata) *perdurev1.Metadata {
	p := &perdurev1.Metadata{
		CorrelationId: m.CorrelationID, Traceparent: m.TraceParent, Tracestate: m.TraceState, Values: m.Values,
	}
	if !m.CausationID.IsZero() {
		p.CausationId = m.CausationID[:]
	}
	return p
}

func fromMetadataProto(p *perdurev1.Metadata) Metadata {
	m := Metadata{
		CorrelationID: p.GetCorrelationId(), TraceParent: p.GetTraceparent(), TraceState: p.GetTracestate(), Values: p.GetValues(),
	}
	copy(m.CausationID[:], p.GetCausationId())
	return m
}
