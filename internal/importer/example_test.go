package importer_test

import (
	"context"
	"fmt"

	"linkcancel/internal/broker"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
)

// A batch is sealed when all of its links are written. The same id with the same
// links returns the same batch, so a caller that is not sure can try again.
func ExampleMakeBatch() {
	ctx := context.Background()
	b := broker.Embedded() // or broker.Open with the URL of a Redis
	defer b.Close()
	batches := ledger.New(b.Client())

	config := importer.BatchConfig{ID: "stale-november", Source: importer.SourceImport, Name: "stale links of November"}
	for range 2 {
		batch, err := importer.MakeBatch(ctx, batches, &importer.Links{IDs: []string{
			"pl_1c5c4f1cbd4d4e4aa4b2f4c5c9a6b1d0",
			"pl_7f0d2d4a8e6b4c0f9a3e5d1b2c4f6a80",
		}}, config)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(batch.ID, batch.State, batch.Pending(), "pending")
	}
	// Output:
	// stale-november ready 2 pending
	// stale-november ready 2 pending
}
