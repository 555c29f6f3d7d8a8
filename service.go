package perdure

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/internal/guard"
)

// A Service runs as long as the engine is open, such as the projections of package
// projection. See Config.Services.
type Service interface {
	// Serve works until the context ends, and returns after everything that it has started
	// has ended. If it returns an error or panics before that, the engine logs the error
	// and shows it in [Engine.Services]; the engine and the other services continue.
	Serve(ctx context.Context, e *Engine) error
}

// A ServiceState describes a service of an engine.
type ServiceState struct {
	Service Service
	// Running is true until Serve has returned.
	Running bool
	// Err is the error that Serve returned, or its panic. It is nil if Serve ended because
	// the engine was closed.
	Err error
}

// services runs the services of an engine.
type services struct {
	cancel context.CancelFunc
	wait   sync.WaitGroup
	ended  chan struct{} // while closing: closed when all services have ended

	mu     sync.Mutex
	states []ServiceState
}

func (e *Engine) startServices() {
	ctx, cancel := context.WithCancel(context.Background())
	s := &e.services
	s.cancel, s.ended = cancel, make(chan struct{})
	s.states = make([]ServiceState, len(e.config.Services))
	for i, service := range e.config.Services {
		s.states[i] = ServiceState{Service: service, Running: true}
		s.wait.Go(func() {
			err := errors.New("method Serve has called runtime.Goexit")
			defer func() { s.served(ctx, i, err, e) }()
			_, err = guard.Call("Serve", func() (struct{}, error) { return struct{}{}, service.Serve(ctx, e) })
		})
	}
}

// served records that a service has ended.
func (s *services) served(ctx context.Context, i int, err error, e *Engine) {
	if ctx.Err() != nil {
		err = nil
	}
	s.mu.Lock()
	s.states[i].Running, s.states[i].Err = false, err
	s.mu.Unlock()
	if err != nil {
		e.failures.services.Add(1)
		e.config.Logger.Error("service has ended", "service", fmt.Sprintf("%T", e.config.Services[i]), "error", err)
	}
}

// stop ends the services and waits for them, or for the context.
func (s *services) stop(ctx context.Context) error {
	s.cancel()
	go func() {
		s.wait.Wait()
		close(s.ended)
	}()
	select {
	case <-s.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("services: %w", ctx.Err())
	}
}

// Services returns the states of the services, in the order of Config.Services.
func (e *Engine) Services() []ServiceState {
	e.services.mu.Lock()
	defer e.services.mu.Unlock()
	return append([]ServiceState(nil), e.services.states...)
}

// Config returns the configuration of the engine, with defaults filled in. The caller
// must not change it.
func (e *Engine) Config() Config { return e.config }

// A StoredEvent describes how one stored type of event of a kind is read.
type StoredEvent struct {
	// Type is the full protobuf name under which events are stored.
	Type string
	// Becomes is the type of the message that these events are read as. It differs from
	// Type if the kind has an [Upcast] for Type. It is empty if the kind has an
	// [UpcastMany] for Type, or for the type that Type is upcast to; see BecomesAny.
	Becomes string
	// Decode returns the message of a payload, after the upcasts. With an [UpcastMany] it
	// returns an error unless the result is exactly one message; see DecodeAll.
	Decode func(payload []byte) (proto.Message, error)
	// BecomesAny are the types of the messages that these events are read as: Becomes
	// alone, or the types that an [UpcastMany] lists. It is empty if the list of the
	// UpcastMany is empty.
	BecomesAny []string
	// DecodeAll returns the messages of a payload, after the upcasts, in order: one
	// message, or any number with an [UpcastMany]. They share the version and the position
	// of the record.
	DecodeAll func(payload []byte) ([]proto.Message, error)
}

// StoredEvents returns the stored event types of a kind: those that have an Evolve rule,
// and those that are upcast. Use it to write a reader of the log. Its error names the
// mistakes in the declaration of the kind.
func StoredEvents(k AnyKind) ([]StoredEvent, error) {
	c := k.compile()
	if err := c.err(); err != nil {
		return nil, err
	}
	events := make([]StoredEvent, 0, len(c.rules.Stored))
	for name, rule := range c.rules.Stored {
		if rule.Many != nil {
			events = append(events, storedMany(name, rule))
			continue
		}
		e := StoredEvent{Type: name, Becomes: rule.Evolve.Type, BecomesAny: []string{rule.Evolve.Type}, Decode: func(payload []byte) (proto.Message, error) {
			m := rule.New()
			if err := proto.Unmarshal(payload, m); err != nil {
				return nil, fmt.Errorf("decode %s: %w", name, err)
			}
			if rule.Upcast != nil {
				if m = rule.Upcast(m); m == nil || !m.ProtoReflect().IsValid() {
					return nil, fmt.Errorf("decode %s: its Upcast has returned nil", name)
				}
			}
			return m, nil
		}}
		e.DecodeAll = func(payload []byte) ([]proto.Message, error) {
			m, err := e.Decode(payload)
			return []proto.Message{m}, err
		}
		events = append(events, e)
	}
	return events, nil
}

// storedMany returns the StoredEvent of a type that becomes any number of events.
func storedMany(name string, rule *entity.StoredRule) StoredEvent {
	all := func(payload []byte) ([]proto.Message, error) {
		m := rule.New()
		if err := proto.Unmarshal(payload, m); err != nil {
			return nil, fmt.Errorf("decode %s: %w", name, err)
		}
		events, err := rule.Many(m)
		if err != nil {
			return nil, fmt.Errorf("decode %s: %w", name, err)
		}
		return events, nil
	}
	return StoredEvent{
		Type: name, BecomesAny: rule.Becomes, DecodeAll: all,
		Decode: func(payload []byte) (proto.Message, error) {
			events, err := all(payload)
			if err == nil && len(events) != 1 {
				err = fmt.Errorf("decode %s: its UpcastMany makes %d events of it: use DecodeAll", name, len(events))
			}
			if err != nil {
				return nil, err
			}
			return events[0], nil
		},
	}
}
