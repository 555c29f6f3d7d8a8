package bbolt

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
)

// residentBytes returns the size of the pages of mapped files that are in the memory of this
// process.
func residentBytes() (n int64, ok bool) {
	text, err := os.ReadFile("/proc/self/statm") // numbers of pages: all, resident, and of files
	fields := bytes.Fields(text)
	if err != nil || len(fields) < 3 {
		return 0, false
	}
	n, err = strconv.ParseInt(string(fields[2]), 10, 64)
	return n * int64(os.Getpagesize()), err == nil
}

// giveBack removes the pages of a mapping from the memory of this process. Because the mapping
// is shared and read-only, the next access finds the same data. If the kernel refuses, nothing
// changes.
func giveBack(mapping uintptr, bytes int64) {
	_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, mapping, uintptr(bytes), syscall.MADV_DONTNEED)
}
