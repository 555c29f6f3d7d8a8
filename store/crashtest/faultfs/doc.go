// Package faultfs is a file system for tests. Its operations can be made to fail, and data
// that was not synced is lost when its power is cut. Package crashtest mounts it under a
// store; other tests of files can use it as well.
//
// It shows the files of a directory, by FUSE, on Linux.
package faultfs
