package perdure

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/store"
)

// idsPerSeed is the number of ids that an idSource makes from one seed.
const idsPerSeed = 1024

// An idSource makes ids for commands: UUIDs of version 7. The UUID library makes the seeds.
// From each seed the idSource makes further ids, from the present time and from random bits
// that it mixes from the seed and a counter. This needs no lock and no system call. It is for
// one goroutine at a time.
type idSource struct {
	seed store.ID
	left uint64
}

func (i *idSource) next(s *callShard) store.ID {
	if i.left == 0 {
		seed, err := s.ids.NewV7()
		if err != nil {
			panic(fmt.Sprintf("perdure: no randomness: %v", err)) // crypto/rand does not fail
		}
		i.seed, i.left = store.ID(seed), idsPerSeed
	}
	i.left--
	id := entity.DerivedID(i.seed, i.left)
	var now [8]byte
	binary.BigEndian.PutUint64(now[:], uint64(time.Now().UnixMilli()))
	copy(id[:6], now[2:]) // a version 7 id begins with 48 bits of milliseconds
	return id
}
