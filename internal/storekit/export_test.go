package storekit

// The bounds, for the tests.
const (
	MergeBatchesMax = mergeBatchesMax
	MergeBytesMax   = mergeBytesMax
	HeadsMax        = headsMax
	PageRowsMax     = pageRowsMax
	PageBytesMax    = pageBytesMax
	KeptBytesMax    = keptBytesMax
)
