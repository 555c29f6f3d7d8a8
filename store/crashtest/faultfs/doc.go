// Package faultfs is a file system that fails where it is told to, and that
// forgets what was not synced when its power is cut. Package crashtest mounts it
// under a store; it can serve other tests of files as well.
//
// It shows the files of a directory, by FUSE, on Linux.
package faultfs
