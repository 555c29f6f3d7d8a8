module github.com/perdure/perdure/store/storetest

go 1.26

require (
	github.com/perdure/perdure v0.0.0
	google.golang.org/protobuf v1.36.12
	pgregory.net/rapid v1.3.0
)

replace github.com/perdure/perdure => ../..
