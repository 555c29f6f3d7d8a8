// A program that makes the table of the positions of read models in PostgreSQL.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/perdure/perdure/projection/pgxtarget"
)

func main() {
	schema, err := pgxtarget.Schema("perdure_notes")
	if err == nil && !strings.Contains(schema, "CREATE TABLE") {
		err = fmt.Errorf("the schema creates no table: %s", schema)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
