module github.com/perdure/perdure/store/bbolt

go 1.26

require (
	github.com/perdure/perdure v0.0.0
	github.com/perdure/perdure/store/storetest v0.0.0
	go.etcd.io/bbolt v1.5.0
)

replace (
	github.com/perdure/perdure => ../..
	github.com/perdure/perdure/store/storetest => ../storetest
)
