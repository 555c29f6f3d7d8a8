package storekit

// The bounds, for the tests.
const (
	MergeBatchesMax = mergeBatchesMax
	MergeBytesMax   = mergeBytesMax
	RecentMax       = recentMax
	PageRowsMax     = pageRowsMax
	PageBytesMax    = pageBytesMax
	KeptBytesMax    = keptBytesMax
)
