package perdure

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/perdure/perdure/internal/guard"
)

// A Service runs as long as the engine is open, such as the projections of package
// projection. See Config.Services.
type Service interface {
	// Serve works until the context ends, and returns after everything that it has started
	// has ended. If it returns or panics before that, the engine logs it, shows it in
	// [Engine.Services], and calls Serve again after a pause: 100 milliseconds, then twice as
	// long after each further end, up to a minute, shortened at random by up to a half. After
	// it has worked for a minute, the pauses begin again with the shortest. The engine and
	// the other services continue.
	//
	// Serve is not called again after an error that matches [ErrInvalid], because only a
	// change of the program can help, and not for a service of [Once].
	Serve(ctx context.Context, e *Engine) error
}

// Once returns a service that is not started again when it ends, for work that is done once
// after the engine was opened.
func Once(s Service) Service {
	if s == nil {
		return nil
	}
	return once{s}
}

type once struct{ Service }

// A ServiceState describes a service of an engine.
type ServiceState struct {
	Service Service
	// Running is true while Serve runs.
	Running bool
	// Restarts counts the calls of Serve after the first one.
	Restarts int
	// Next is the time at which Serve is called again. It is zero while Serve runs, and for a
	// service that is not started again.
	Next time.Time
	// Err is the error that Serve returned last, or its panic. It is nil if Serve has not ended,
	// if it ended because the engine was closed, and if a service of [Once] has done its work.
	Err error
}

// Pauses before a service is started again.
const (
	servicePauseMin = 100 * time.Millisecond
	servicePauseMax = time.Minute
	// serviceSound is the time after which a service that ends is started again after the
	// shortest pause.
	serviceSound = time.Minute
)

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
		s.wait.Go(func() { e.keepServing(ctx, i) })
	}
}

// keepServing runs a service, and runs it again when it ends, until the context ends.
func (e *Engine) keepServing(ctx context.Context, i int) {
	service := e.config.Services[i]
	_, single := service.(once)
	pause := servicePauseMin
	for {
		began := e.elapsed()
		mistake, err := serve(ctx, service, e)
		if ctx.Err() != nil {
			e.services.set(i, func(s *ServiceState) { s.Running, s.Err = false, nil })
			return
		}
		if e.elapsed()-began >= serviceSound {
			pause = servicePauseMin
		}
		if err == nil && !single {
			err = errors.New("method Serve has returned before its context ended")
		}
		if err != nil {
			e.failures.services.Add(1)
		}
		if single || mistake {
			e.services.set(i, func(s *ServiceState) { s.Running, s.Err = false, err })
			if err != nil {
				e.config.Logger.Error("service has ended and is not started again", "service", nameOf(service), "error", err)
			}
			return
		}
		after := pause - rand.N(pause/2)
		pause = min(2*pause, servicePauseMax)
		next := e.config.Clock.Now().Add(after)
		e.services.set(i, func(s *ServiceState) { s.Running, s.Err, s.Next = false, err, next })
		e.config.Logger.Error("service has ended and is started again", "service", nameOf(service), "after", after, "error", err)
		if !e.sleep(ctx, after) {
			e.services.set(i, func(s *ServiceState) { s.Next = time.Time{} })
			return
		}
		e.services.set(i, func(s *ServiceState) {
			s.Running, s.Next = true, time.Time{}
			s.Restarts++
		})
	}
}

// serve calls Serve on a goroutine of its own, which Serve may end. It reports whether the error is
// a mistake in the program. The methods of the error are user code too.
func serve(ctx context.Context, service Service, e *Engine) (mistake bool, err error) {
	err = errors.New("method Serve has called runtime.Goexit")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		mistake, err = guard.Call("Serve", func() (bool, error) {
			err := service.Serve(ctx, e)
			return errors.Is(err, ErrInvalid), err
		})
	}()
	<-ended
	return mistake, err
}

// nameOf names a service in the log.
func nameOf(s Service) string {
	if o, ok := s.(once); ok {
		s = o.Service
	}
	return fmt.Sprintf("%T", s)
}

// sleep waits for a duration of the engine's clock, and returns true. If the context ends, it
// returns false.
func (e *Engine) sleep(ctx context.Context, d time.Duration) bool {
	over := make(chan struct{})
	stop := e.config.Clock.AfterFunc(d, func() { close(over) })
	select {
	case <-over:
		return true
	case <-ctx.Done():
		stop()
		return false
	}
}

func (s *services) set(i int, change func(*ServiceState)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.states[i])
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
	return slices.Clone(e.services.states)
}

// Config returns the configuration of the engine, with defaults filled in. The caller
// must not change it.
func (e *Engine) Config() Config { return e.config }
