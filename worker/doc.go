// Package worker turns cancel tasks into outcomes. It takes slices from the queue, cancels their
// links at the API within the rate limit, and records one outcome for each link in the ledger.
//
// # A slice
//
//	task ──▶ decode ──▶ records of the slice ──▶ links without an outcome
//	                                                      │ one slot each
//	      nil, or a delay ◀── recorder ◀── outcome ◀── canceler ──▶ API
//
// The records are read at every run. That makes a second run harmless: a link with an
// outcome is skipped, and a link that may have been sent before is ambiguous. Before
// each request the batch's state is checked, at most a second old. A slice whose links
// all have an outcome is done. Otherwise what is known is noted, and the task returns to
// the queue with the delay of the link that is due first.
//
// gate.go lets a request through, callslots.go bounds the calls in flight, and
// heartbeat.go publishes what the worker holds.
//
// # A link
//
// The canceler follows one link through its phases:
//
//	deleting ──▶ outcome
//	    │
//	    ├─ 422, or a final answer after an ambiguous attempt ──▶ settling (GET) ──▶ outcome
//	    │
//	    ├─ 5xx, no answer ──▶ noted; again after a backoff
//	    │
//	    └─ attempts used up ──▶ last look (GET) ──▶ cancelled, or failed
//
// classify.go says what each answer means, and docs/answers.md is generated from it.
// next.go says what a link needs after an answer in a phase. Both are pure code.
// canceler.go sends the requests and does what next says.
//
// A link of a verification is only read: its phase is verifying from start to end.
//
// # Proof
//
// Gateways answer, too. An answer decides only if the API itself gave it (proven): its error has
// the documented body, or a GET shows the link. proof.go has the conditions under which an answer
// in another form counts. first.go checks the first 204s of a batch. attribute.go finds out whether
// a 401, 403 or 429 concerns one link or all of them, by a control: a GET of a link that is known.
//
// # Recording
//
// The recorder commits what finishes within a few milliseconds as one script call. It
// has a context of its own and retries until Redis takes it: an answer must not be lost
// because the process is stopping. A slice waits for its commits before it returns.
//
// # Stopping
//
// When its context ends, a worker takes no more tasks and ends all waits at once. Calls
// in flight get the drain timeout. A call that is cut is noted as ambiguous. The slices
// go back to the queue and do not count as failed.
package worker
