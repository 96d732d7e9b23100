// Package ratelimit decides when the next request to the API may be sent. It keeps
// all requests of a fleet within one rate, adapts the rate to the API's answers, and
// stops sending (a hold) when an answer or an operator asks for it.
//
// # Slots
//
// [Fleet] is the limiter of one process. All processes that share a Redis database
// reserve slots of one schedule, by the generic cell rate algorithm. A slot is the
// permission to send one request at a certain time, at most about 100 ms ahead.
//
//	Acquire ──▶ waits for a slot ──▶ request ──▶ Report(slot, answer)
//	               ▲                                  │
//	               │ slots                            │ answers since the last call
//	             reserve ◀────────────────────────────┘
//	               │
//	        fleet_reserve.lua on the key lc:rate
//
// One goroutine per process calls the script. It reports the answers since its last
// call and reserves as many slots as the process needs soon. A slot that is not used
// within 5 ms is given up, so a process that was stopped never sends a burst. A local
// limiter from x/time/rate is a second guard. While Redis is away nothing is granted.
//
// The rate of the fleet has a ceiling: the lowest Rate of the processes that are
// alive, or what [SetFleetRate] set. A process never exceeds its own Rate.
//
// # Adaptation
//
// The rules are in fleet_rules.lua. Its numbers are named constants at the top.
//
//   - After a 429 that counts, the rate becomes 0.85 of the good answers of the last
//     second, at most once per second. Answers to requests sent before the cut are
//     ignored.
//   - Without further 429s the rate climbs by 0.25% of the ceiling per second. The step
//     doubles every 20 s.
//   - After an outage sending starts at a tenth of the ceiling and reaches it within
//     about 14 s.
//
// # Holds
//
//	              429 from two links, nothing good in between
//	            ┌────────────────────────────────────────────▶ throttled
//	            │                                               │ Retry-After, or
//	            │      20 failures in a row, ten links          │ 1 s to 30 s
//	sending ────┼──────────────────────────────▶ outage         ▼
//	   ▲        │                       1 s to 10 s └────────▶ probe ──▶ held again
//	   │        │                                               │
//	   │        │                                   good answer │
//	   └────────┼───────────────────────────────────────────────┘
//	            │
//	            ├─ HoldFleet ─▶ manual, until ReleaseFleet or its time
//	            │
//	            └─ 401 or 403, confirmed ─▶ unauthorized, of this process only
//
// Manual, throttled and outage holds exist side by side, and each ends on its own. An
// unauthorized hold belongs to one process, because the keys of the others may be
// good. It is probed every 30 s and when the key changes.
//
// A 429 may be the trouble of one link. Until a second link gets one as well, the
// link is only a suspect and the fleet continues. An answer that the API may not have
// given (Unproven) shows neither that the API works nor that it does not.
//
// # Time
//
// Grants are numbered. "Before the hold" and "after the cut" compare these numbers
// and not times, because an answer describes the API at the time of its request. The
// script uses the clock of Redis. Each process estimates the difference between that
// clock and its own from the calls.
package ratelimit
