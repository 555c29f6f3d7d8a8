package postgres_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
)

// TestDamagedPage reads what the server says of a damaged page or index of its own.
func TestDamagedPage(t *testing.T) {
	t.Parallel()
	for code, corrupt := range map[string]bool{"XX001": true, "XX002": true, "XX000": false, "23505": false} {
		said := &pgconn.PgError{SeverityUnlocalized: "ERROR", Code: code, Message: "invalid page in block 7 of relation base/5/16400"}
		err := postgres.Damaged(fmt.Errorf("scan: %w", said))
		if got := errors.Is(err, store.ErrCorrupt); got != corrupt {
			t.Errorf("%s: got that it is damage: %v, want %v", code, got, corrupt)
		}
		if e, ok := errors.AsType[*pgconn.PgError](err); !ok || e != said {
			t.Errorf("%s: the error of the server is gone: %v", code, err)
		}
	}
	if err := postgres.Damaged(nil); err != nil {
		t.Errorf("no error: got %v", err)
	}
}
