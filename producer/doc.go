// Package producer brings links into the ledger as sealed batches, and from the ledger
// into the queue as cancel tasks.
//
// # Sources
//
// A source yields the links of one batch: [CSV] reads the user's files, [Sweep] selects
// stale links from the API's own list, and a retry takes the links of an earlier batch.
// [MakeBatch] writes them to the ledger, asks for confirmation, and seals the batch. If
// the input is refused, nothing is left behind.
//
// # The feeder
//
// Every worker process runs a [Feeder]. The one that holds the lease in Redis leads.
//
//	open batches ──▶ turns ──▶ slices ──▶ asynq queue
//	  (ledger)                    │
//	                 cursor moves behind them
//
// Ten times a second the leader fills the queue up to the look-ahead: about two seconds
// of work at the present rate. Links that workers hold and have not sent count as well.
// The short queue is why a pause takes effect within a second, why Redis stays small,
// and why a small batch does not wait behind a large one. Imports and sweeps take turns
// four to one, and equal batches take turns one to one.
//
// The slice is enqueued first and the cursor moves afterwards. After a crash in between
// the slice is fed again. Task ids and the records of the ledger make that harmless.
//
// # Repair
//
// The leader also repairs what crashes leave behind:
//
//   - a slice whose worker died (its lease in asynq ended): enqueued again with a
//     redelivery count, so that its links count as ambiguous
//   - a slice between the low-water mark and the cursor that asynq does not know
//   - the rest of an abort, imports without a heartbeat, batches past their keep time
//
// # Sweeps
//
// [Sweeper] runs sweeps by schedule, once for the fleet: the task of a sweep has the
// date in its id. A sweep reads the list forwards and backwards until a reading brings
// no new link, since links move between pages. Only an answer that the API itself gave
// ends the list.
package producer
