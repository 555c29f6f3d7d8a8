package actor_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/perdure/perdure/actor"
)

// A watcher gets a message when another actor has stopped, for any reason.
func ExampleWatch() {
	ctx := context.Background()
	s := actor.NewSystem(actor.Config{})
	patient, err := actor.Spawn(s, "patient", actor.Try[string](func(_ *actor.Context[string], m string) error {
		return errors.New(m)
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	nurse, err := actor.Spawn(s, "nurse", actor.Func[string](func(c *actor.Context[string], m string) {
		if m == "begin" {
			actor.Watch(c, patient, func(t actor.Terminated) string { return fmt.Sprint("the end: ", t.Reason) })
			return
		}
		fmt.Println(m)
		c.Stop()
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := nurse.Run("begin"); err != nil {
		fmt.Println(err)
	}
	if err := patient.Tell("flu"); err != nil {
		fmt.Println(err)
	}
	if err := nurse.Wait(ctx); err != nil {
		fmt.Println(err)
	}
	if err := s.Shutdown(ctx); err != nil {
		fmt.Println(err)
	}
	// Output:
	// the end: actor "patient" failed: flu
}
