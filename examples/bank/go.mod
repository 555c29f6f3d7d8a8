module github.com/perdure/perdure/examples/bank

go 1.26

require (
	github.com/perdure/perdure v0.0.0
	github.com/perdure/perdure/store/open v0.0.0
	google.golang.org/protobuf v1.36.12
)

require (
	github.com/gofrs/uuid/v5 v5.5.1 // indirect
	github.com/perdure/perdure/store/bbolt v0.0.0 // indirect
	go.etcd.io/bbolt v1.5.0 // indirect
	golang.org/x/sys v0.45.0 // indirect
)

replace (
	github.com/perdure/perdure => ../..
	github.com/perdure/perdure/store/bbolt => ../../store/bbolt
	github.com/perdure/perdure/store/open => ../../store/open
	github.com/perdure/perdure/store/storetest => ../../store/storetest
)
