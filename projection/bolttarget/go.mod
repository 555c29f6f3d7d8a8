module github.com/perdure/perdure/projection/bolttarget

go 1.26

require (
	github.com/perdure/perdure v0.1.0
	go.etcd.io/bbolt v1.5.0
)

require (
	github.com/gofrs/uuid/v5 v5.5.1 // indirect
	golang.org/x/sys v0.45.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)
