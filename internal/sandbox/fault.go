package sandbox

import "net/http"

// fault is the fault of one request.
type fault struct {
	name   string // in the log, "" for none
	answer Answer
	works  bool // the work is done anyway
}

// pick returns the fault of a request. u is drawn from [0, 1).
func (f Faults) pick(u float64) fault {
	if f == (Faults{}) {
		return fault{}
	}
	type entry struct {
		share float64
		name  string
	}
	for _, e := range [...]entry{
		{f.Error500, "error500"}, {f.HTML502, "html502"}, {f.Cut, "cut"}, {f.CutBefore, "cut_before"},
		{f.Hang, "hang"}, {f.BadRequest, "bad_request"}, {f.Forbidden, "forbidden"}, {f.Friendly, "friendly"},
	} {
		if u < e.share {
			return f.make(e.name)
		}
		u -= e.share
	}
	return fault{}
}

func (f Faults) make(name string) fault {
	switch name {
	case "error500":
		return fault{name: name, answer: errorAnswer(http.StatusInternalServerError, codeUnavailable, "service unavailable")}
	case "html502":
		return fault{name: name, answer: Answer{Status: http.StatusBadGateway, Body: htmlPage(http.StatusBadGateway)}}
	case "cut":
		return fault{name: name, answer: Answer{Cut: true}, works: true}
	case "cut_before":
		return fault{name: name, answer: Answer{Cut: true}}
	case "hang":
		return fault{name: name, answer: Answer{Hang: true}, works: f.HangApplied}
	case "bad_request":
		return fault{name: name, answer: errorAnswer(http.StatusBadRequest, codeInvalid, "invalid request params")}
	case "forbidden":
		return fault{name: name, answer: errorAnswer(http.StatusForbidden, codeWrong, "access denied")}
	default: // friendly
		return fault{name: name, answer: Answer{Status: http.StatusOK, Body: friendlyPage}}
	}
}
