module github.com/perdure/perdure/store/bbolt

go 1.26

require (
	github.com/gofrs/uuid/v5 v5.5.1
	github.com/perdure/perdure v0.1.0
	github.com/perdure/perdure/store/crashtest v0.1.0
	go.etcd.io/bbolt v1.5.0
)

require (
	github.com/hanwen/go-fuse/v2 v2.12.1 // indirect
	golang.org/x/sys v0.45.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
	pgregory.net/rapid v1.3.0 // indirect
)
