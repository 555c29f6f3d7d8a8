// Package kindrules gives packages of this module the compiled rules of a kind. Package
// perdure does not export them, because their type is internal: package perduretest runs a
// kind without an engine, and package projection decodes its events.
package kindrules

import "github.com/perdure/perdure/internal/core/entity"

// A Kind is a *perdure.Kind of any state. This package cannot name it, because package
// perdure imports this one.
type Kind interface{ Name() string }

var of func(Kind) (*entity.Rules, error)

// Provide sets the function behind [Of]. Package perdure calls it once, when the program
// starts.
func Provide(f func(Kind) (*entity.Rules, error)) struct{} {
	of = f
	return struct{}{}
}

// Of returns the compiled rules of a kind, or an error that names every mistake in its
// declaration, as perdure.Open does. All engines share the rules, so the caller must not
// change them.
func Of(k Kind) (*entity.Rules, error) { return of(k) }
