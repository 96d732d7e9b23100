// Package importer writes links into the ledger as sealed batches.
//
// A [Source] yields the links of one batch: [CSV] reads the user's files, [Retry] takes links of an
// earlier batch again, and producer/sweep selects stale links from the API's own list. [MakeBatch]
// writes them to the ledger in chunks, asks for confirmation, and seals the batch. Nothing is sent
// before that. If the input is refused, nothing is left behind.
//
// A batch with the same id and the same links is the same batch, so a command can be
// repeated. [Digest] names the links of a source.
//
// producer/feeder moves sealed batches into the queue.
package importer
