module github.com/perdure/perdure/store/open

go 1.26

require (
	github.com/perdure/perdure v0.0.0
	github.com/perdure/perdure/store/bbolt v0.0.0
)

replace (
	github.com/perdure/perdure => ../..
	github.com/perdure/perdure/store/bbolt => ../bbolt
	github.com/perdure/perdure/store/storetest => ../storetest
)
