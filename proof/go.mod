module github.com/perdure/perdure/proof

go 1.26

require (
	github.com/anishathalye/porcupine v1.3.1
	github.com/perdure/perdure v0.0.0
	github.com/perdure/perdure/store/bbolt v0.0.0-00010101000000-000000000000
	google.golang.org/protobuf v1.36.12
)

require (
	github.com/gofrs/uuid/v5 v5.5.1 // indirect
	github.com/google/go-cmp v0.7.0 // indirect
	go.etcd.io/bbolt v1.5.0 // indirect
	golang.org/x/sys v0.45.0 // indirect
)

replace (
	github.com/perdure/perdure => ..
	github.com/perdure/perdure/store/bbolt => ../store/bbolt
	github.com/perdure/perdure/store/crashtest => ../store/crashtest
	github.com/perdure/perdure/store/storetest => ../store/storetest
)
