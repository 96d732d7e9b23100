package sandbox

import (
	"bufio"
	"encoding/json"
	"io"
	"maps"
	"strconv"
	"time"
)

// Request is a request to the sandbox.
type Request struct {
	Time   time.Time // of arrival
	Method string
	ID     string // "" for the list and for other paths
	Status int    // 0 if no answer was sent
	// Applied means that this request cancelled the link.
	Applied bool
	// Fault is the name of its fault as in the log, or "".
	Fault string
	// Conn is the number of its connection, from 1, or 0 without ConnContext.
	Conn uint32
}

// Counts are the numbers of requests.
type Counts struct {
	Total    int
	ByMethod map[string]int
	ByStatus map[int]int    // 0 if no answer was sent
	ByFault  map[string]int // by Request.Fault, without ""
	// PeakPerSecond is the maximum within any second.
	PeakPerSecond int
}

// recorder counts, keeps and logs requests. The caller locks.
type recorder struct {
	counts Counts
	window peakWindow
	keep   int
	kept   []Request // a ring once it is full
	oldest int
	log    *bufio.Writer // nil without a log
	line   []byte        // reused
}

func newRecorder(keep int, log io.Writer) *recorder {
	r := &recorder{keep: keep, counts: Counts{ByMethod: map[string]int{}, ByStatus: map[int]int{}, ByFault: map[string]int{}}}
	if log != nil {
		r.log = bufio.NewWriterSize(log, 64<<10)
	}
	return r
}

func (r *recorder) add(q Request) {
	now := q.Time.UnixNano()
	r.counts.Total++
	r.counts.ByMethod[q.Method]++
	r.counts.ByStatus[q.Status]++
	if q.Fault != "" {
		r.counts.ByFault[q.Fault]++
	}
	r.window.add(now)
	switch {
	case r.keep <= 0:
	case len(r.kept) < r.keep:
		r.kept = append(r.kept, q)
	default:
		r.kept[r.oldest] = q
		r.oldest = (r.oldest + 1) % r.keep
	}
	if r.log == nil {
		return
	}
	b := append(r.line[:0], `{"t":`...)
	b = strconv.AppendInt(b, now, 10)
	b = append(b, `,"method":`...)
	b = appendJSON(b, q.Method)
	b = append(b, `,"id":`...)
	b = appendJSON(b, q.ID)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(q.Status), 10)
	b = append(b, `,"fault":`...)
	b = appendJSON(b, q.Fault)
	b = append(b, `,"applied":`...)
	b = strconv.AppendBool(b, q.Applied)
	if q.Conn > 0 {
		b = append(b, `,"conn":`...)
		b = strconv.AppendUint(b, uint64(q.Conn), 10)
	}
	r.line = append(b, "}\n"...)
	_, _ = r.log.Write(r.line) // bufio keeps the error for Flush
}

// appendJSON appends text as a JSON string.
func appendJSON(b []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(text) // a string always marshals
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, text...)
	return append(b, '"')
}

// requests returns the kept requests, oldest first.
func (r *recorder) requests() []Request {
	all := make([]Request, 0, len(r.kept))
	all = append(all, r.kept[r.oldest:]...)
	return append(all, r.kept[:r.oldest]...)
}

func (r *recorder) snapshot() Counts {
	c := r.counts
	c.ByMethod = maps.Clone(c.ByMethod)
	c.ByStatus = maps.Clone(c.ByStatus)
	c.ByFault = maps.Clone(c.ByFault)
	c.PeakPerSecond = r.window.peak
	return c
}

func (r *recorder) flush() error {
	if r.log == nil {
		return nil
	}
	return r.log.Flush()
}
