package ledger

import "time"

// CanaryRow is how many links in a row with the outcome not_found, or rejected,
// pause a batch whose canary is on: see record.lua.
const CanaryRow = 50

// Rest is for how long a link without an outcome must not be sent yet, in a batch
// created at the given time; zero or less: it may be sent.
func (r Record) Rest(created, now time.Time) time.Duration {
	if r.Outcome != None || r.Due == 0 {
		return 0
	}
	return created.Add(time.Duration(r.Due) * time.Second).Sub(now)
}
