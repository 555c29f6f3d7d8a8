package storecore

// The bounds, exported for the tests.
const (
	MergeBatchesMax = mergeBatchesMax
	MergeBytesMax   = mergeBytesMax
	RecentMax       = recentMax
	PageRowsMax     = pageRowsMax
	PageBytesMax    = pageBytesMax
	KeptBytesMax    = keptBytesMax
)
