module github.com/perdure/perdure/cmd/perdure

go 1.26

require (
	github.com/perdure/perdure v0.0.0
	github.com/perdure/perdure/store/bbolt v0.0.0
	github.com/perdure/perdure/store/open v0.0.0
	github.com/spf13/cobra v1.10.2
)

require (
	github.com/gofrs/uuid/v5 v5.5.1 // indirect
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/spf13/pflag v1.0.10 // indirect
	go.etcd.io/bbolt v1.5.0 // indirect
	golang.org/x/sys v0.45.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace (
	github.com/perdure/perdure => ../..
	github.com/perdure/perdure/store/bbolt => ../../store/bbolt
	github.com/perdure/perdure/store/open => ../../store/open
	github.com/perdure/perdure/store/storetest => ../../store/storetest
)
