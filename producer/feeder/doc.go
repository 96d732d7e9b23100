// Package feeder moves links from sealed batches into the queue, and repairs what crashes
// leave behind.
//
// # Leadership
//
// Every worker process runs a [Feeder]. One of them leads: it holds a lease in Redis for
// 5 seconds and renews it every second.
//
//	            lease taken: a new epoch
//	following ────────────────────────────▶ leading
//	    ▲                                      │
//	    └──────────────────────────────────────┘
//	       the lease expired, or a batch has seen a later epoch
//
// A leader that stalls may not notice that another took over. Each batch therefore stores
// the epoch of the leader that fed it last, and refuses cursor moves of an earlier one. A
// new leader starts with what the ledger holds; it inherits nothing else.
//
// # Feeding
//
//	open batches ──▶ turns ──▶ slices ──▶ asynq queue
//	  (ledger)                    │
//	                 cursor moves behind them
//
// Ten times a second the leader fills the queue up to the look-ahead: about two seconds of work at
// the current rate, or less where the workers send far less than it allows. Links that workers
// hold and have not sent count as well. The short queue is why a pause takes effect within a
// second, why Redis stays small, and why a small batch does not wait behind a large one. Imports
// and sweeps take turns four to one, and equal batches one to one. Verifications have one turn of
// 21.
//
// A slice is enqueued first and the cursor moves afterwards. After a crash in between, the
// slice is fed again. Task ids and the records of the ledger make that harmless.
//
// # Other duties
//
// repair.go has the table of duties and how often each runs:
//
//   - A slice whose worker lost its lease of the task is enqueued again with a redelivery
//     count, so that its links count as ambiguous.
//   - A slice between the low-water mark and the cursor that asynq does not know is
//     enqueued again. After a resume this happens without a redelivery count, since
//     workers drop the slices of a paused batch.
//   - What is new in the histories is logged and added to their index.
//   - Finished batches are retired, aborted ones completed, and imports without a
//     heartbeat deleted after 24 hours.
package feeder
