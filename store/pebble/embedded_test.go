package pebble_test

import (
	"testing"

	cockroach "github.com/cockroachdb/pebble/v2"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/pebble"
	"github.com/perdure/perdure/store/storetest/embeddedtest"
)

func TestEmbeddedSuite(t *testing.T) {
	t.Parallel()
	embeddedtest.Run(t, embeddedtest.Store{
		Open: func(path string, partitions int) (embeddedtest.Log, error) {
			opts := []pebble.Option{pebble.WithMemTableBytes(4 << 20), pebble.WithCacheBytes(4 << 20)}
			if partitions > 0 {
				opts = append(opts, pebble.WithPartitions(partitions))
			}
			return pebble.Open(path, opts...)
		},
		DamageLastEvent: func(t testing.TB, path string, key store.Key) {
			edit(t, path, func(db *cockroach.DB) error {
				return db.Set(pebble.EventKey(key, 1), []byte("damaged"), cockroach.Sync)
			})
		},
	})
}
