package bbolt_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/bbolt"
	"github.com/perdure/perdure/store/memory"
)

// A log is backed up while it is used. The backup opens as a log.
func ExampleLog_Backup() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "perdure")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	log, err := bbolt.Open(filepath.Join(dir, "log.db"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = log.Close() }()

	path := filepath.Join(dir, "backup.db")
	if err := admin.Backup(ctx, log, path, admin.BackupOptions{BytesPerSecondMax: 50 << 20}); err != nil {
		fmt.Println(err)
		return
	}
	backup, err := bbolt.Open(path, bbolt.ReadOnly())
	if err != nil {
		fmt.Println(err)
		return
	}
	report, err := admin.Verify(ctx, backup, admin.VerifyOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("faults:", report.FaultCount)
	fmt.Println("closed:", backup.Close())
	// Output:
	// faults: 0
	// closed: <nil>
}

// A log is moved to another store with all that it holds, and as it is.
func ExampleLog_Import() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "perdure")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	from := memory.New()
	_, err = from.Commit(ctx, []*store.Batch{{
		Key:    store.Key{Kind: "book", ID: "emma"},
		Events: []store.Event{{ID: store.ID{1}, Type: "library.v1.BookRegistered"}},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	to, err := bbolt.Open(filepath.Join(dir, "log.db"))
	if err != nil {
		fmt.Println(err)
		return
	}
	report, err := admin.Copy(ctx, from, to, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("records:", report.Records)
	fmt.Println("closed:", to.Close())
	// Output:
	// records: 1
	// closed: <nil>
}
