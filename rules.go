package perdure

import "github.com/perdure/perdure/internal/entity"

// Rules returns the compiled rules of the kind, or an error that names every
// mistake in its declaration, as [Open] would. It is how package perduretest
// runs a kind without an engine: nobody outside of this module can name what it
// returns. All engines share the rules, so they must not be changed.
func (k *Kind[S]) Rules() (*entity.Rules, error) {
	c := k.compile()
	if err := c.err(); err != nil {
		return nil, err
	}
	return &c.rules, nil
}
