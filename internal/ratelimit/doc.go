// Package ratelimit decides when the next request to the API may be sent. It keeps
// all requests of a fleet within one rate, adapts the rate to the API's answers, and
// stops sending (a hold) when an answer or an operator asks for it.
//
// # Slots
//
// [Fleet] is the limiter of one process. All processes that share a Redis database
// reserve slots of one schedule, by the generic cell rate algorithm. A slot is the
// permission to send one request at a certain time, at most 1.5 s ahead.
//
//	Acquire ──▶ waiters ──▶ Slot ──▶ request ──▶ Report(Slot, Answer)
//	               ▲                                │
//	             slots                            outbox
//	               ▲                                │
//	               └────────── reserver ◀───────────┘
//	                               │
//	        fleet_rules.lua, fleet_reserve.lua on the key lc:rate
//
// The parts of a Fleet:
//
//   - The waiters are the calls of Acquire, in order of arrival.
//   - The slots are those that the process has reserved. One that is not used within
//     5 ms is given up, so a process that was stopped never sends a burst. When the
//     rate falls, only the matching part of them is kept. When a hold begins, those at
//     the end of the schedule are given back.
//   - The outbox holds the answers that the script does not know yet.
//   - The reserver is the goroutine that calls the script: it reports the answers and
//     reserves as many slots as the process needs soon (demand).
//   - The clock estimates what the time in Redis is.
//
// How far ahead slots are reserved decides how many calls are made, and how long a process
// that joins waits for its first slot. A process alone reserves a second, and makes about one
// call in it. Among several, each reserves some in a row, and then waits for its turn.
// fleet_rules.lua has the numbers.
//
// A local limiter from x/time/rate is a second guard. While Redis is away nothing is granted.
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
//	sending ──┬─ 429 from two links, no good answer in between ─▶ throttled ─┐
//	   ▲      │                             Retry-After, or 1 s doubling     │
//	   │      │                             to 30 s                          │
//	   │      ├─ 20 failures in a row from 10 links, or Down ───▶ outage ────┤
//	   │      │                             1 s doubling to 10 s             │
//	   │      │                                                              ▼
//	   ├──────┼── good answer ◀───────────────────────────────── one request at a time
//	   │      │                                                              │
//	   │      │                            held again ◀── failure, 429 ──────┘
//	   │      │
//	   │      ├─ HoldFleet ──▶ manual ──┐
//	   ├──────┼─────────────────────────┴─ its time is over, or ReleaseFleet
//	   │      │
//	   │      └─ HoldOwn ──▶ unauthorized or outage, of this process only ──┐
//	   └───────────────────── a good answer to a probe, or ReleaseFleet ◀───┘
//
// Manual, throttled and outage holds exist side by side, and each ends on its own. A
// throttled hold of more than 15 minutes is probed every 15 minutes.
//
// HoldOwn holds one process, because the API may accept the keys of the others, or
// answer them. The time between its probes doubles from 1 s to 30 s, or 10 s in an
// outage. When the key changes, an unauthorized hold is probed at once.
//
// A 429 may be the trouble of one link. Until a second link gets one as well, the
// link is only a suspect and the fleet continues. An answer that the API may not have
// given (Unproven) shows neither that the API works nor that it does not.
//
// # Time
//
// Grants are numbered. "Before the hold" and "after the cut" compare these numbers
// and not times, because an answer describes the API at the time of its request. The
// script uses the clock of Redis.
package ratelimit
