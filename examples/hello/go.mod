module github.com/perdure/perdure/examples/hello

go 1.26

require (
	github.com/perdure/perdure v0.1.0
	github.com/perdure/perdure/store/bbolt v0.1.0
	google.golang.org/protobuf v1.36.12
)

require (
	github.com/gofrs/uuid/v5 v5.5.1 // indirect
	go.etcd.io/bbolt v1.5.0 // indirect
	golang.org/x/sys v0.45.0 // indirect
)
