//go:build race

package perdure_test

const raceEnabled = true
