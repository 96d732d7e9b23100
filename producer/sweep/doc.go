// Package sweep makes batches of stale links, which it finds in the API's own list.
//
// [Run] does one sweep:
//
//	list reader ──▶ selector ──▶ plan ──▶ confirm ──▶ batch
//	(listing.go,  (selector.go)                  (producer.MakeBatch)
//	 page.go)
//
// The list reader asks for every page, at first forwards and then backwards, until a pass
// brings no new link, because links move between pages while it reads. Little is known about
// the list, so only an answer that the API itself gave ends it. Everything else is asked for
// again and then fails the sweep: a list that a gateway cuts off must not look complete.
//
// The selector judges each link by the [Selection] and leaves out links that wait in an
// unfinished batch, or that a batch has finished since the reading began. A sweep that finds
// more links than allowed, or cannot read most of the dates, does nothing.
//
// # Scheduled sweeps
//
// Every worker with a [Schedule] runs a [Sweeper]. Each enqueues a task when a sweep is due.
// The date is part of the task's id, so there is one task, and one worker runs it. The
// ledger stores how far the sweep is (see ledger.SweepLease):
//
//	          begin              end
//	(due) ───────────▶ running ───────▶ ended
//	                    │   ▲
//	      given back,   ▼   │ begin, after a delay, or when the worker has died
//	      or failed    waiting
//
// The batch's id is stored before the batch is made. A worker that continues the sweep of one that
// died therefore finds its batch, and a sweep makes one batch however many workers die.
package sweep
