package bbolt_test

import (
	"bytes"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
	"github.com/perdure/perdure/store/storetest/embeddedtest"
)

func TestEmbeddedSuite(t *testing.T) {
	t.Parallel()
	embeddedtest.Run(t, embeddedtest.Store{
		Open: func(path string, partitions int) (embeddedtest.Log, error) {
			opts := []bbolt.Option{}
			if partitions > 0 {
				opts = append(opts, bbolt.WithPartitions(partitions))
			}
			return bbolt.Open(path, opts...)
		},
		DamageLastEvent: func(t testing.TB, path string, key store.Key) {
			edit(t, path, func(tx *bolt.Tx) error {
				b, k := tx.Bucket([]byte("index")), bbolt.IndexKey(key, 1)
				v := bytes.Clone(b.Get(k))
				v[3] ^= 1
				return b.Put(k, v)
			})
		},
	})
}
