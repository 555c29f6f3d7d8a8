// Modules maintains the modules of this repository: it checks their files, makes a module proxy
// from the working tree, tests the modules through that proxy as a program elsewhere would use
// them, and tags a release. Run it in the directory tools:
//
//	go run ./modules tidy              checks that each go.mod and go.sum is tidy
//	go run ./modules tidy -w           writes those that are not
//	go run ./modules outside [NAME]    programs outside of the repository get and use each module
//	go run ./modules set v0.2.0        all modules require each other at that version
//	go run ./modules release -n v0.2.0 tells what a release would do
//	go run ./modules release v0.2.0    tags every released module at HEAD
//	go run ./modules release -push origin v0.2.0    and pushes the tags, all or none
//
// docs/design/0019-modules.md says why the modules are arranged in this way.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, "..", os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "modules:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage: modules tidy [-w] | outside [NAME]... | set VERSION | release [-n] [-push REMOTE] VERSION")

// run runs a command on the repository whose root is root.
func run(ctx context.Context, root string, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errUsage
	}
	t, err := readTree(root)
	if err != nil {
		return err
	}
	switch command, args := args[0], args[1:]; command {
	case "tidy":
		flags := newFlags(command, out)
		write := flags.Bool("w", false, "write the files in place of comparing them")
		if err := flags.Parse(args); err != nil {
			return err
		}
		if flags.NArg() > 0 {
			return errUsage
		}
		return t.tidy(ctx, *write)
	case "outside":
		return t.outside(ctx, args, out)
	case "set":
		if len(args) != 1 {
			return errUsage
		}
		return t.set(args[0])
	case "release":
		flags := newFlags(command, out)
		dry := flags.Bool("n", false, "tell what would be done, and do nothing")
		remote := flags.String("push", "", "push the tags to this `REMOTE`, all or none")
		if err := flags.Parse(args); err != nil {
			return err
		}
		if flags.NArg() != 1 {
			return errUsage
		}
		r := release{tree: t, version: flags.Arg(0), remote: *remote, dry: *dry, out: out}
		r.try = func(ctx context.Context) error { return t.outside(ctx, nil, out) }
		return r.run(ctx)
	default:
		return errUsage
	}
}

func newFlags(command string, out io.Writer) *flag.FlagSet {
	flags := flag.NewFlagSet(command, flag.ContinueOnError)
	flags.SetOutput(out)
	return flags
}
