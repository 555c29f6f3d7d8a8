module github.com/perdure/perdure/store/crashtest

go 1.26

require (
	github.com/hanwen/go-fuse/v2 v2.12.1
	github.com/perdure/perdure v0.1.0
	golang.org/x/sys v0.45.0
)

require (
	github.com/gofrs/uuid/v5 v5.5.1 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)
