package fingerprint_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/perdure/perdure/internal/fingerprint"
)

// A program is one version of an application: its messages, as fields of a descriptor, and
// its rules. Rules use fields by name, so that a version can renumber them.
type program struct {
	state   []*descriptorpb.FieldDescriptorProto
	events  map[string][]*descriptorpb.FieldDescriptorProto
	enum    []string // names of the values of the enum Colour, from 0
	numbers []int32  // numbers of these values, if they are not 1, 2, 3 and so on
	more    []*descriptorpb.DescriptorProto
	evolve  map[string]func(s, e fieldsOf)
	upcasts map[string]func(e fieldsOf)
	migrate func(s fieldsOf)
	version uint64
}

// A fieldsOf gets and sets the fields of a message by name.
type fieldsOf struct{ m protoreflect.Message }

func (m fieldsOf) field(name string) protoreflect.FieldDescriptor {
	return m.m.Descriptor().Fields().ByName(protoreflect.Name(name))
}
func (m fieldsOf) has(name string) bool      { return m.m.Has(m.field(name)) }
func (m fieldsOf) number(name string) int64  { return m.m.Get(m.field(name)).Int() }
func (m fieldsOf) text(name string) string   { return m.m.Get(m.field(name)).String() }
func (m fieldsOf) yes(name string) bool      { return m.m.Get(m.field(name)).Bool() }
func (m fieldsOf) choice(name string) int    { return int(m.m.Get(m.field(name)).Enum()) }
func (m fieldsOf) length(name string) int    { return m.m.Get(m.field(name)).List().Len() }
func (m fieldsOf) put(name string, n int64)  { m.m.Set(m.field(name), protoreflect.ValueOfInt64(n)) }
func (m fieldsOf) add(name string, n int64)  { m.put(name, m.number(name)+n) }
func (m fieldsOf) say(name string, s string) { m.m.Set(m.field(name), protoreflect.ValueOfString(s)) }

func (m fieldsOf) inner(name string) fieldsOf   { return fieldsOf{m.m.Mutable(m.field(name)).Message()} }
func (m fieldsOf) from(e fieldsOf, name string) { m.say(name, e.text(name)) }

const (
	num  = descriptorpb.FieldDescriptorProto_TYPE_INT64
	zig  = descriptorpb.FieldDescriptorProto_TYPE_SINT64
	str  = descriptorpb.FieldDescriptorProto_TYPE_STRING
	yes  = descriptorpb.FieldDescriptorProto_TYPE_BOOL
	u32  = descriptorpb.FieldDescriptorProto_TYPE_UINT32
	enum = descriptorpb.FieldDescriptorProto_TYPE_ENUM
	msg  = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
)

func field(number int32, name string, typ descriptorpb.FieldDescriptorProto_Type) *descriptorpb.FieldDescriptorProto {
	f := &descriptorpb.FieldDescriptorProto{
		Number: &number, Name: &name, Type: &typ, Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
	}
	switch typ {
	case enum:
		f.TypeName = new(".t.Colour")
	case msg:
		f.TypeName = new(".t.Part")
	}
	return f
}

func list(f *descriptorpb.FieldDescriptorProto) *descriptorpb.FieldDescriptorProto {
	f.Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
	return f
}

func oneof(f *descriptorpb.FieldDescriptorProto) *descriptorpb.FieldDescriptorProto {
	f.OneofIndex = new(int32(0))
	return f
}

func optional(f *descriptorpb.FieldDescriptorProto) *descriptorpb.FieldDescriptorProto {
	f.Proto3Optional = new(true)
	return oneof(f)
}

// fold compiles a program.
func (p program) fold(t testing.TB) *fingerprint.Fold {
	t.Helper()
	file := &descriptorpb.FileDescriptorProto{Name: new("t.proto"), Package: new("t"), Syntax: new("proto3")}
	declare := func(name string, fields []*descriptorpb.FieldDescriptorProto) {
		d := &descriptorpb.DescriptorProto{Name: new(name), Field: fields}
		for _, f := range fields {
			if f.OneofIndex != nil && d.OneofDecl == nil {
				d.OneofDecl = []*descriptorpb.OneofDescriptorProto{{Name: new("_one")}}
			}
		}
		file.MessageType = append(file.MessageType, d)
	}
	declare("State", p.state)
	for name, fields := range p.events {
		declare(name, fields)
	}
	file.MessageType = append(file.MessageType, p.more...)
	colours := &descriptorpb.EnumDescriptorProto{Name: new("Colour")}
	for i, c := range append([]string{"NONE"}, p.enum...) {
		n := int32(i)
		if i > 0 && p.numbers != nil {
			n = p.numbers[i-1]
		}
		colours.Value = append(colours.Value, &descriptorpb.EnumValueDescriptorProto{Name: new(c), Number: new(n)})
	}
	file.EnumType = append(file.EnumType, colours)
	fd, err := protodesc.NewFile(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	message := func(name string) func() proto.Message {
		d := fd.Messages().ByName(protoreflect.Name(name))
		return func() proto.Message { return dynamicpb.NewMessage(d) }
	}
	f := &fingerprint.Fold{
		NewState: message("State"), Version: p.version,
		Events: map[string]fingerprint.Event{}, Migrations: map[string]fingerprint.Migration{},
	}
	for name, evolve := range p.evolve {
		f.Events["t."+name] = fingerprint.Event{New: message(name), Apply: func(s, e proto.Message) {
			if up := p.upcasts[name]; up != nil {
				up(fieldsOf{e.ProtoReflect()})
			}
			evolve(fieldsOf{s.ProtoReflect()}, fieldsOf{e.ProtoReflect()})
		}}
	}
	if p.migrate != nil {
		f.Migrations["t.Old"] = fingerprint.Migration{New: message("State"), Migrate: func(s proto.Message) proto.Message {
			p.migrate(fieldsOf{s.ProtoReflect()})
			return s
		}}
	}
	return f
}

func (p program) print(t testing.TB) *fingerprint.Print {
	t.Helper()
	return fingerprint.Of(p.fold(t))
}

type fields = []*descriptorpb.FieldDescriptorProto

// base is the program that the others differ from.
func base() program {
	return program{
		state: fields{field(1, "owner", str), field(2, "balance", num), field(3, "count", num)},
		enum:  []string{"RED", "GREEN", "BLUE"},
		events: map[string]fields{
			"Opened":    {field(1, "owner", str)},
			"Deposited": {field(1, "amount", num), field(2, "colour", enum), field(3, "final", yes)},
			"Closed":    {},
		},
		evolve: map[string]func(s, e fieldsOf){
			"Opened":    func(s, e fieldsOf) { s.from(e, "owner") },
			"Deposited": func(s, e fieldsOf) { s.add("balance", e.number("amount")) },
			"Closed":    func(s, _ fieldsOf) { s.say("owner", "") },
		},
	}
}

// with returns the base program with a change.
func with(change func(p *program)) program {
	p := base()
	change(&p)
	return p
}

func deposited(evolve func(s, e fieldsOf)) program {
	return with(func(p *program) { p.evolve["Deposited"] = evolve })
}

// TestPrint/… names the verdict of another program about a snapshot of the base program,
// and the reverse.
func TestPrint(t *testing.T) {
	t.Parallel()
	plain := base().evolve["Deposited"]
	for _, tt := range []struct {
		name  string
		other program
		want  fingerprint.Verdict
	}{
		{"follows_the_fold_alone", base(), fingerprint.Same},
		{"does_not_count_a_new_event_type", with(func(p *program) {
			p.events["Added"], p.evolve["Added"] = fields{field(1, "amount", num)}, func(s, e fieldsOf) { s.put("balance", 7*e.number("amount")) }
		}), fingerprint.Same},
		{"does_not_count_a_new_field_of_an_event", with(func(p *program) {
			p.events["Deposited"] = append(p.events["Deposited"], field(4, "fee", num))
			p.evolve["Deposited"] = func(s, e fieldsOf) { plain(s, e); s.add("balance", -e.number("fee")) }
		}), fingerprint.Same},
		{"does_not_count_a_second_new_field", with(func(p *program) {
			p.events["Deposited"] = append(p.events["Deposited"], field(4, "fee", num), field(5, "text", str))
		}), fingerprint.Same},
		{"does_not_count_a_new_field_of_an_event_before_one_that_undoes_it", with(func(p *program) {
			p.events["Opened"] = append(p.events["Opened"], field(4, "fee", num))
		}), fingerprint.Same},
		{"does_not_count_a_new_field_of_an_event_that_undoes_another_one", with(func(p *program) {
			p.events["Closed"] = append(p.events["Closed"], field(4, "fee", num))
		}), fingerprint.Same},
		{"does_not_count_a_new_field_of_the_state", with(func(p *program) {
			p.state = append(p.state, field(9, "fresh", num))
		}), fingerprint.Same},
		{"does_not_count_a_new_value_of_an_enum", with(func(p *program) { p.enum = append(p.enum, "BLACK") }), fingerprint.Same},
		{"does_not_count_the_order_of_declarations", with(func(p *program) {
			p.state[0], p.state[2] = p.state[2], p.state[0]
			e := p.events["Deposited"]
			e[0], e[1] = e[1], e[0]
		}), fingerprint.Same},
		{"does_not_count_types_that_protobuf_can_switch", with(func(p *program) { p.state = append(p.state[:2:2], field(3, "count", u32)) }), fingerprint.Same},
		{"does_not_count_a_migration_that_is_new", with(func(p *program) { p.migrate = func(fieldsOf) {} }), fingerprint.Same},
		{"counts_another_type_of_a_field_of_the_state", with(func(p *program) {
			p.state = fields{field(1, "owner", str), field(2, "balance", num), field(3, "count", zig)}
		}), fingerprint.Unreadable},
		{"counts_another_cardinality_of_a_field_of_the_state", with(func(p *program) {
			p.state = fields{field(1, "owner", str), field(2, "balance", num), list(field(3, "count", num))}
		}), fingerprint.Unreadable},
		{"counts_another_type_of_a_field_of_an_event", with(func(p *program) {
			p.events["Opened"] = fields{field(1, "owner", num)}
			p.evolve["Opened"] = func(s, e fieldsOf) { s.say("owner", fmt.Sprint(e.number("owner"))) }
		}), fingerprint.Other},
		{"counts_another_sum", deposited(func(s, e fieldsOf) { s.add("balance", 2*e.number("amount")) }), fingerprint.Other},
		{"counts_false", deposited(func(s, e fieldsOf) {
			if e.yes("final") || e.number("amount") == 0 {
				plain(s, e)
			}
		}), fingerprint.Other},
		{"counts_negative_numbers", deposited(func(s, e fieldsOf) {
			if e.number("amount") > 0 {
				plain(s, e)
			}
		}), fingerprint.Other},
		{"counts_zero", deposited(func(s, e fieldsOf) {
			if plain(s, e); e.number("amount") == 0 {
				s.add("count", 1)
			}
		}), fingerprint.Other},
		{"counts_each_value_of_an_enum", deposited(func(s, e fieldsOf) {
			if plain(s, e); e.choice("colour") == 3 {
				s.add("count", 1)
			}
		}), fingerprint.Other},
		{"counts_a_value_of_an_enum_that_the_program_does_not_know", deposited(func(s, e fieldsOf) {
			if c := e.choice("colour"); c < 2 {
				plain(s, e)
			}
		}), fingerprint.Other},
		{"counts_an_event_that_does_something_after_another_one", deposited(func(s, e fieldsOf) {
			if plain(s, e); s.text("owner") != "" {
				s.add("count", 1)
			}
		}), fingerprint.Other},
		{"counts_an_event_that_does_something_the_second_time", deposited(func(s, e fieldsOf) {
			if s.number("balance") == 0 {
				plain(s, e)
			}
		}), fingerprint.Other},
		{"counts_an_upcast", with(func(p *program) {
			p.upcasts = map[string]func(e fieldsOf){"Deposited": func(e fieldsOf) { e.put("amount", 100*e.number("amount")) }}
		}), fingerprint.Other},
		{"counts_a_panic", deposited(func(s, e fieldsOf) {
			if plain(s, e); e.number("amount") < 0 {
				panic("no")
			}
		}), fingerprint.Other},
		{"counts_the_end_of_a_goroutine", deposited(func(s, e fieldsOf) {
			if plain(s, e); e.choice("colour") == 2 {
				runtime.Goexit()
			}
		}), fingerprint.Other},
		{"counts_the_version", with(func(p *program) { p.version = 1 }), fingerprint.Other},
		{"counts_a_change_beside_an_addition", with(func(p *program) {
			p.events["Added"], p.evolve["Added"] = fields{}, func(fieldsOf, fieldsOf) {}
			p.evolve["Deposited"] = func(s, e fieldsOf) {
				if plain(s, e); s.text("owner") != "" {
					s.add("count", 1)
				}
			}
		}), fingerprint.Other},
		{"knows_nothing_of_a_fold_of_other_events", with(func(p *program) {
			p.events = map[string]fields{"Else": {}}
			p.evolve = map[string]func(s, e fieldsOf){"Else": func(fieldsOf, fieldsOf) {}}
		}), fingerprint.Unknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, b := base().print(t), tt.other.print(t)
			if got := b.Compare(a.Encode()); got != tt.want {
				t.Errorf("the program with a snapshot of the base: got verdict %d, want %d", got, tt.want)
			}
			if got := a.Compare(b.Encode()); got != tt.want {
				t.Errorf("the base with a snapshot of the program: got verdict %d, want %d", got, tt.want)
			}
			if again := tt.other.print(t); string(again.Encode()) != string(b.Encode()) {
				t.Error("the print of one program is another one each time")
			}
		})
	}
}

// rich is a program whose event has members of a oneof, lists, optional fields and a
// message.
func rich(evolve func(s, e fieldsOf)) program {
	part := &descriptorpb.DescriptorProto{Name: new("Part"), Field: fields{field(1, "text", str), field(2, "size", num)}}
	return program{
		state: fields{field(1, "count", num), field(2, "open", num), field(3, "ready", num)}, enum: []string{"RED"},
		events: map[string]fields{
			"E": {
				oneof(field(1, "a", num)), oneof(field(2, "b", num)), oneof(field(3, "c", num)),
				list(field(4, "list", num)), field(6, "part", msg), list(field(7, "parts", msg)),
			},
			"Optional": {optional(field(1, "n", num))},
			"First":    {}, "Second": {}, "Third": {},
		},
		more: []*descriptorpb.DescriptorProto{part},
		evolve: map[string]func(s, e fieldsOf){
			"E":        evolve,
			"Optional": evolve, "Third": evolve,
			"First": func(s, _ fieldsOf) { s.put("open", 1) },
			"Second": func(s, _ fieldsOf) {
				if s.number("open") == 1 {
					s.put("ready", 1)
				}
			},
		},
	}
}

func TestPrintSees(t *testing.T) {
	t.Parallel()
	for name, seen := range map[string]func(s, e fieldsOf) bool{
		"the_first_member_of_a_oneof":  func(_, e fieldsOf) bool { return e.field("a") != nil && e.number("a") > 0 },
		"the_second_member_of_a_oneof": func(_, e fieldsOf) bool { return e.field("a") != nil && e.number("b") < 0 },
		"no_member_of_a_oneof": func(_, e fieldsOf) bool {
			return e.field("a") != nil && !e.has("a") && !e.has("b") && !e.has("c") && e.has("list")
		},
		"an_empty_list": func(_, e fieldsOf) bool { return e.field("list") != nil && e.length("list") == 0 && e.has("c") },
		"a_list_of_two": func(_, e fieldsOf) bool { return e.field("list") != nil && e.length("list") == 2 },
		"a_message_without_a_field": func(_, e fieldsOf) bool {
			return e.field("part") != nil && e.has("part") && e.inner("part").text("text") == ""
		},
		"a_message_with_a_negative_number": func(_, e fieldsOf) bool {
			return e.field("part") != nil && e.has("part") && e.inner("part").number("size") < 0
		},
		"a_missing_message":              func(_, e fieldsOf) bool { return e.field("part") != nil && !e.has("part") && e.has("list") },
		"zero_that_is_set":               func(_, e fieldsOf) bool { return e.field("n") != nil && e.has("n") && e.number("n") == 0 },
		"a_third_event_after_two_others": func(s, e fieldsOf) bool { return e.m.Descriptor().Name() == "Third" && s.number("ready") == 1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := rich(func(fieldsOf, fieldsOf) {}).print(t)
			after := rich(func(s, e fieldsOf) {
				if seen(s, e) {
					s.add("count", 1)
				}
			}).print(t)
			if got := after.Compare(before.Encode()); got != fingerprint.Other {
				t.Errorf("got verdict %d, want %d", got, fingerprint.Other)
			}
		})
	}
}

// TestPrintOfEnums/… : the enum on which the rules of a kind depend gets other values.
func TestPrintOfEnums(t *testing.T) {
	t.Parallel()
	coloured := func(names []string, numbers []int32, worth func(colour int) int64) *fingerprint.Print {
		return with(func(p *program) {
			p.enum, p.numbers = names, numbers
			p.events["Painted"] = fields{field(1, "colour", enum), list(field(2, "colours", enum))}
			for _, e := range []string{"Deposited", "Painted"} {
				p.evolve[e] = func(s, e fieldsOf) { s.put("count", worth(e.choice("colour"))) }
			}
		}).print(t)
	}
	itself := func(colour int) int64 { return int64(colour) }
	before := coloured([]string{"RED", "GREEN"}, []int32{10, 20}, itself)
	for _, tt := range []struct {
		name    string
		names   []string
		numbers []int32
		worth   func(int) int64
		want    fingerprint.Verdict
	}{
		{"does_not_count_a_value_between_others", []string{"PINK", "RED", "GREEN"}, []int32{5, 10, 20}, itself, fingerprint.Same},
		{"does_not_count_a_value_below_zero", []string{"RED", "GREEN", "DARK"}, []int32{10, 20, -1}, itself, fingerprint.Same},
		{"does_not_count_a_value_above_others", []string{"RED", "GREEN", "BLUE"}, []int32{10, 20, 30}, itself, fingerprint.Same},
		{"does_not_count_that_a_value_is_gone", []string{"GREEN"}, []int32{20}, itself, fingerprint.Same},
		{"does_not_count_the_first_value", nil, nil, itself, fingerprint.Same},
		{"counts_a_rule_about_an_old_value", []string{"PINK", "RED", "GREEN"}, []int32{5, 10, 20}, func(colour int) int64 {
			if colour == 20 {
				return 7
			}
			return int64(colour)
		}, fingerprint.Other},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			after := coloured(tt.names, tt.numbers, tt.worth)
			if got, back := after.Compare(before.Encode()), before.Compare(after.Encode()); got != tt.want || back != tt.want {
				t.Errorf("got the verdicts %d and, the other way round, %d, want %d", got, back, tt.want)
			}
		})
	}
}

// TestPrintIsBounded makes the print of a kind with thirty event types. The print must be
// small, since each snapshot holds it, and the number of rule calls must be bounded.
func TestPrintIsBounded(t *testing.T) {
	t.Parallel()
	const applicationsMax = 40_000
	applied := 0
	p := program{
		state: fields{field(1, "owner", str), field(2, "balance", num)}, enum: []string{"RED", "GREEN"},
		events: map[string]fields{}, evolve: map[string]func(s, e fieldsOf){},
	}
	for i := range 30 {
		name := fmt.Sprintf("Event%d", i)
		p.events[name] = fields{
			field(1, "amount", num), field(2, "colour", enum), field(3, "final", yes), field(4, "text", str), field(5, "more", num), field(6, "last", u32),
		}
		p.evolve[name] = func(s, e fieldsOf) { applied++; s.add("balance", e.number("amount")) }
	}
	own := p.print(t)
	if n := len(own.Encode()); n > 2048 {
		t.Errorf("the print has %d bytes", n)
	}
	if applied > applicationsMax {
		t.Errorf("rules were applied %d times, want at most %d", applied, applicationsMax)
	}
	t.Logf("%d applications, %d bytes", applied, len(own.Encode()))
}

// TestPrintOfLargeStates makes the print of a kind with an event that makes a state of a
// megabyte. An engine makes prints when it opens, so this must not take long.
func TestPrintOfLargeStates(t *testing.T) {
	t.Parallel()
	grown := func(evolve func(s, e fieldsOf)) (own *fingerprint.Print, bytes int) {
		large := strings.Repeat("x", 1<<20)
		own = with(func(p *program) {
			p.evolve["Opened"] = func(s, _ fieldsOf) { s.say("owner", large) }
			for _, name := range []string{"Deposited", "Closed"} {
				p.evolve[name] = func(s, e fieldsOf) { bytes += len(s.text("owner")); evolve(s, e) }
			}
		}).print(t)
		return own, bytes
	}
	own, bytes := grown(func(s, _ fieldsOf) { s.add("count", 1) })
	if bytes > 64<<20 {
		t.Errorf("rules were given states of %d bytes, want some 16 MB", bytes)
	}
	other, _ := grown(func(s, _ fieldsOf) { s.add("count", int64(1+len(s.text("owner")))) })
	if got := other.Compare(own.Encode()); got != fingerprint.Other {
		t.Errorf("a rule that looks at the large state: got verdict %d, want %d", got, fingerprint.Other)
	}
}

func FuzzCompare(f *testing.F) {
	own := base().print(f)
	f.Add(own.Encode())
	f.Add([]byte{})
	f.Add([]byte(strings.Repeat("\x22\x01", 3)))
	f.Fuzz(func(t *testing.T, stored []byte) {
		if got := own.Compare(stored); got == fingerprint.Same && len(stored) == 0 {
			t.Error("nothing is the same")
		}
	})
}
