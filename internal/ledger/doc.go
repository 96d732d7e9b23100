// Package ledger is the source of truth for batches. It holds the links of every
// batch in Redis, and one outcome for each link.
//
// # Writing a batch
//
//	Create ──▶ Draft.Write … ──▶ Draft.Seal
//	 importing                   ready
//
// An importer writes the ids in chunks of up to 1,000 links and a heartbeat beside
// them. A chunk is packed if the API documents the form of all its ids (chunk.go). [Draft.Seal] checks that every chunk is there and that the count is right. Nothing is
// sent before. A batch whose importer died is deleted after 24 hours.
//
// # States
//
//	importing ──▶ ready ──▶ running ──▶ done
//	                │          │
//	                ├──────────┼─▶ paused ──▶ ready or running (resume)
//	                └──────────┴─▶ aborted
//
// A batch is running when its first slice is fed. record.lua sets it done in the call that records
// its last outcome. Aborting sets the state first and then fills the records that have no outcome.
//
// # Records
//
// Each link has a record of 8 bytes in a string per chunk: outcome, flags (ambiguous,
// settling), attempts, HTTP status, link status, and the time. A missing string reads
// as zeros, which means pending without an attempt.
//
// Commit records outcomes and notes in groups. Its rules make every retry harmless:
//
//   - The first outcome of a link is final, and the counters move in the same script.
//   - The number of attempts only grows, and the ambiguous flag is only ever set.
//   - The counts always add up: total = outcomes + pending.
//
// There are two exceptions. A real answer that arrives after an abort replaces "aborted". A resume
// sets the outcomes of the row that tripped the canary back to pending, once.
//
// # The canary
//
// record.lua counts outcomes in a row that are all not_found or all rejected. At 50 it
// pauses the batch: the base URL, the column or the merchant may be wrong.
//
// # Failover
//
// A promoted replica may be missing the last writes of the primary. Each batch stores the
// replication ID of the server that it was written under. If it differs from the server's present
// one, links without an outcome that may have been sent count as ambiguous: a link of ours must
// never be called already_cancelled. The fields of the hash are called line (the replication ID)
// and doubt (the end of the suspect range).
//
// # Keys
//
// All keys of a batch share the hash tag of its id, so every script works on a Redis
// Cluster. ARCHITECTURE.md lists the keys. Times are those of Redis (TIME), and every
// script is safe to run again.
//
// # Formats
//
// A batch stores the version of its format. This release reads and drains all versions
// from 1 on, and leaves newer ones alone. Verifications, and batches that wait for a time or have a
// stop condition, have a newer format than others: older releases would send their links. So have
// batches with packed chunks, which older releases cannot read.
package ledger
