module github.com/perdure/perdure/store/storetest

go 1.26

require (
	github.com/perdure/perdure v0.0.0
	pgregory.net/rapid v1.3.0
)

require (
	github.com/gofrs/uuid/v5 v5.5.1 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace github.com/perdure/perdure => ../..
