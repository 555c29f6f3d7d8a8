package notetable

import "strings"

// postgresFaults are the SQLSTATEs, or their first characters, of errors that are the server's
// own fault, and no statement's.
var postgresFaults = []string{
	"08",    // connections
	"25006", // a transaction that is read-only, as after a failover
	"40001", // serialization failure
	"40P01", // deadlock
	"53",    // insufficient resources: disk, memory, connections
	"55P03", // a lock is not available in time
	"57014", // canceled, such as by a timeout of the statement
	"57P",   // shut down, or cannot connect now
	"58",    // system errors, such as of its disks
	"XX001", // damaged data
	"XX002", // a damaged index
}

// PostgresFault reports whether an error of PostgreSQL is the server's own fault.
func PostgresFault(state string) bool {
	for _, f := range postgresFaults {
		if strings.HasPrefix(state, f) {
			return true
		}
	}
	return false
}
