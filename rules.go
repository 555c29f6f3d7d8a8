package perdure

import "github.com/perdure/perdure/internal/core/entity"

// Rules returns the compiled rules of the kind, or an error that names every mistake in
// its declaration, as [Open] does. Package perduretest uses it to run a kind without an
// engine. The result has a type of an internal package, so it is of no use outside of this
// module. All engines share the rules, so the caller must not change them.
func (k *Kind[S]) Rules() (*entity.Rules, error) {
	c := k.compile()
	if err := c.err(); err != nil {
		return nil, err
	}
	return &c.rules, nil
}
