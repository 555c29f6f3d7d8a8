module github.com/perdure/perdure/examples/library

go 1.26

require (
	github.com/perdure/perdure v0.0.0
	github.com/perdure/perdure/store/open v0.0.0
	github.com/spf13/cobra v1.10.2
	google.golang.org/protobuf v1.36.12
)

replace (
	github.com/perdure/perdure => ../..
	github.com/perdure/perdure/store/bbolt => ../../store/bbolt
	github.com/perdure/perdure/store/open => ../../store/open
	github.com/perdure/perdure/store/storetest => ../../store/storetest
)
