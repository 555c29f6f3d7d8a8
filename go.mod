module github.com/perdure/perdure

go 1.26

require (
	github.com/gofrs/uuid/v5 v5.5.1
	google.golang.org/protobuf v1.36.12
)

require (
	github.com/google/go-cmp v0.7.0
	pgregory.net/rapid v1.3.0
)
