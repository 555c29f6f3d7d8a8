package perdure

import (
	"context"
	"errors"
	"fmt"
	"sync"

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
