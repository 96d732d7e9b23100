package status

import "cmp"

// leftOut are the conditions of a sweep that leave links out, in words.
var leftOut = map[string]string{
	"status": "with another status", "no_expiry": "without an expiry", "unreadable_expiry": "with an unreadable expiry",
	"not_expired": "not expired, or too recently", "no_created": "without a date of creation",
	"unreadable_created": "with an unreadable date of creation", "not_old": "not old enough", "excluded": "excluded by a file",
	"waiting": "waiting in an unfinished batch", "settled": "finished in another batch meanwhile",
}

// LeftOut says in words why a sweep left links out.
func LeftOut(condition string) string { return cmp.Or(leftOut[condition], condition) }
