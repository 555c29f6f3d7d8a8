package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/perdure/perdure/store"
)

// printEvent prints an event with all the fields of its record.
func (a *app) printEvent(e *store.Event, asJSON bool) error {
	payload, err := payloadJSON(e.Type, e.Payload)
	if err != nil {
		return fmt.Errorf("event %d of %v: %w", e.Version, e.Key, err)
	}
	if asJSON {
		return a.printEventJSON(e, payload)
	}
	t := &table{}
	t.row("type", e.Type)
	t.row("entity", e.Key.String())
	t.row("version", fmt.Sprint(e.Version))
	t.row("position", e.Position.String())
	t.row("time", stamp(e.Time))
	t.row("id", e.ID.String())
	t.row("causation", e.Metadata.CausationID.String())
	t.row("correlation", e.Metadata.Correlation())
	if e.Metadata.TraceParent != "" {
		t.row("trace", e.Metadata.TraceParent, e.Metadata.TraceState)
	}
	t.row("tags", strings.Join(e.Tags, ", "))
	var values []string
	for _, k := range slices.Sorted(maps.Keys(e.Metadata.Values)) {
		values = append(values, fmt.Sprintf("%s=%s", k, e.Metadata.Values[k]))
	}
	t.row("metadata", strings.Join(values, ", "))
	t.row("payload", string(payload))
	name := e.Type[strings.LastIndexByte(e.Type, '.')+1:]
	a.out.printf("%s %s\n", name, e.Key.ID)
	t.print(a.out, "  ")
	a.out.printf("\n")
	return nil
}

func (a *app) printEventJSON(e *store.Event, payload json.RawMessage) error {
	tags := e.Tags
	if tags == nil {
		tags = []string{}
	}
	return json.NewEncoder(a.out.w).Encode(struct {
		ID          string            `json:"id"`
		Type        string            `json:"type"`
		Kind        string            `json:"kind"`
		Entity      string            `json:"entity"`
		Version     store.Version     `json:"version"`
		Position    string            `json:"position"`
		Time        string            `json:"time"`
		Tags        []string          `json:"tags"`
		Causation   string            `json:"causation"`
		Correlation string            `json:"correlation"`
		TraceParent string            `json:"traceparent,omitempty"`
		TraceState  string            `json:"tracestate,omitempty"`
		Metadata    map[string]string `json:"metadata"`
		Payload     json.RawMessage   `json:"payload"`
	}{
		e.ID.String(), e.Type, e.Key.Kind, e.Key.ID, e.Version, e.Position.String(), stamp(e.Time), tags,
		e.Metadata.CausationID.String(), e.Metadata.Correlation(), e.Metadata.TraceParent, e.Metadata.TraceState,
		e.Metadata.Values, payload,
	})
}

// payloadJSON formats the payload of a record as JSON on one line: the message, or a base64 text
// of its bytes if this program does not know its type.
func payloadJSON(name string, payload []byte) (json.RawMessage, error) {
	known, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name))
	if err != nil {
		return json.Marshal(payload)
	}
	m := known.New().Interface()
	if err := proto.Unmarshal(payload, m); err != nil {
		return nil, fmt.Errorf("decode %s: %w", name, err)
	}
	loose, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("write %s as JSON: %w", name, err)
	}
	var tight bytes.Buffer // protojson varies its spaces deliberately
	if err := json.Compact(&tight, loose); err != nil {
		return nil, err
	}
	return tight.Bytes(), nil
}
