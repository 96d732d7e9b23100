package notify

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"linkcancel/internal/broker"
	"linkcancel/internal/history"
	"linkcancel/internal/ledger"
	"linkcancel/internal/redistest"
	"linkcancel/internal/testutil"
)

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// signed says what is wrong with the signature of a message. It follows the text of the specification,
// and not the library that signs.
func signed(h http.Header, body []byte) string {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		return err.Error()
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", h.Get("webhook-id"), h.Get("webhook-timestamp"), body)
	for _, one := range strings.Fields(h.Get("webhook-signature")) {
		if one == "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)) {
			return ""
		}
	}
	return "no signature is right: " + h.Get("webhook-signature")
}

// hook is a receiver of notifications.
type hook struct {
	*httptest.Server
	mu     sync.Mutex
	status int
	bodies []string
	ids    []string
	wrong  []string
}

func newHook(t *testing.T) *hook {
	h := &hook{status: 204}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		h.mu.Lock()
		defer h.mu.Unlock()
		if why := signed(r.Header, body); why != "" || err != nil || r.Method != "POST" || r.Header.Get("Content-Type") != "application/json" {
			h.wrong = append(h.wrong, fmt.Sprint(why, err, r.Method, r.Header))
		}
		h.bodies, h.ids = append(h.bodies, string(body)), append(h.ids, r.Header.Get("webhook-id"))
		if h.status/100 == 3 {
			w.Header().Set("Location", h.URL+"/elsewhere")
		}
		w.WriteHeader(h.status)
	}))
	t.Cleanup(h.Close)
	return h
}

func receiver(t *testing.T, cfg Config) *Receiver {
	t.Helper()
	if cfg.Format == "" {
		cfg.Format = FormatGeneric
	}
	all, err := Receivers(cfg)
	testutil.Must(t, err)
	return all[0]
}

func event(subject string, number int64) Event {
	e := history.Entry{Owner: subject, Number: number, Time: time.Now(), Change: history.Change{Action: history.Pause, Actor: "ann"}}
	return Event{ID: id(e), Type: BatchPaused, Time: e.Time, Subject: subject, Number: number, Data: Data{Actor: "ann", Text: fmt.Sprintf("%s %d", subject, number)}}
}

func TestSend(t *testing.T) {
	h := newHook(t)
	r := receiver(t, Config{URLs: []string{h.URL + "/hook?token=geheim"}, Secret: secret})
	e := event("march", 7)
	d, err := r.Delivery(e)
	testutil.Must(t, err)
	if status, err := r.Send(t.Context(), d); status != 204 || err != nil {
		t.Errorf("%d, %v", status, err)
	}
	var doc struct {
		Type      string
		Timestamp time.Time
		Data      Data
	}
	testutil.Must(t, json.Unmarshal([]byte(h.bodies[0]), &doc))
	if doc.Type != BatchPaused || !doc.Timestamp.Equal(e.Time) || doc.Data.Text != "march 7" || h.ids[0] != e.ID || len(h.wrong) > 0 {
		t.Errorf("%s, %v, %v", h.bodies[0], h.ids, h.wrong)
	}
	for _, status := range []int{301, 307, 400, 404, 410, 429, 500, 503} {
		h.status = status
		got, err := r.Send(t.Context(), d)
		if got != status || err == nil || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%d: %d, %v", status, got, err)
		}
	}
	if n := len(h.bodies); n != 9 { // no redirect was followed
		t.Errorf("%d requests", n)
	}
	h.Close()
	if status, err := r.Send(t.Context(), d); status != 0 || err == nil || strings.Contains(err.Error(), "geheim") {
		t.Errorf("nobody there: %d, %v", status, err)
	}
}

func TestReceivers(t *testing.T) {
	for url, want := range map[string]string{
		"https://example.com/hook": "", "http://localhost:1/x": "", "http://127.0.0.1/x": "", "http://[::1]:8/x": "",
		"http://example.com/geheim": "unencrypted", "http://10.0.0.1/geheim": "unencrypted", "ftp://example.com/geheim": "not one",
		"example.com/geheim": "not one", "https:///geheim": "not one", "https://exa mple.com/geheim": "not one",
	} {
		_, err := Receivers(Config{URLs: []string{url}})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "geheim")) {
			t.Errorf("%s: %v, want %q", url, err, want)
		}
	}
	if _, err := Receivers(Config{URLs: []string{"http://example.com/x"}, InsecureHTTP: true}); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"whsec_%%%", "short", "whsec_YWJj"} {
		if _, err := Receivers(Config{URLs: []string{"https://example.com"}, Secret: bad}); err == nil {
			t.Errorf("%q is taken for a secret", bad)
		}
	}
	a, b := receiver(t, Config{URLs: []string{"https://example.com/a"}}), receiver(t, Config{URLs: []string{"https://example.com/b"}})
	if a.Name == b.Name || !strings.HasPrefix(a.Name, "example.com#") {
		t.Errorf("%s and %s", a.Name, b.Name)
	}
}

func TestSlack(t *testing.T) {
	e := event("march", 1)
	e.Data.Text, e.Data.Next = "Batch <!channel> & co", "linkcancel batch show march"
	body, err := e.Body(FormatSlack)
	testutil.Must(t, err)
	var doc map[string]string
	testutil.Must(t, json.Unmarshal([]byte(body), &doc))
	want := "linkcancel: Batch &lt;!channel&gt; &amp; co Next: `linkcancel batch show march`"
	if diff := cmp.Diff(map[string]string{"text": want}, doc); diff != "" {
		t.Error(diff)
	}
	e.Data.Page = "https://links.example.com/batches/march"
	body, err = e.Body(FormatSlack)
	if err != nil || !strings.Contains(body, `\u003chttps://links.example.com/batches/march|Show it\u003e`) {
		t.Errorf("%s, %v", body, err)
	}
}

// fleet is a ledger with leaders that deliver.
type fleet struct {
	t *testing.T
	l *ledger.Ledger
	// answer is what the receiver answers.
	mu     sync.Mutex
	answer func(d ledger.Delivery) (int, error)
	got    []string // what was taken: subject and number
	all    int      // attempts
}

// leader starts a dispatcher that leads, until stop.
func (f *fleet) leader(observe func(string)) (d *Dispatcher, stop func()) {
	f.t.Helper()
	r := receiver(f.t, Config{URLs: []string{"https://example.com/hook"}})
	r.client = &http.Client{Transport: transport(func(request *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(request.Body)
		if err != nil {
			return nil, err
		}
		var doc struct{ Data Data }
		if err := json.Unmarshal(body, &doc); err != nil {
			return nil, err
		}
		f.mu.Lock()
		answer := f.answer
		f.all++
		f.mu.Unlock()
		status, err := answer(ledger.Delivery{ID: request.Header.Get("webhook-id"), Subject: strings.Fields(doc.Data.Text)[0]})
		if err != nil {
			return nil, err
		}
		if status == 204 {
			f.mu.Lock()
			f.got = append(f.got, doc.Data.Text)
			f.mu.Unlock()
		}
		return &http.Response{StatusCode: status, Body: http.NoBody}, nil
	})}
	if observe == nil {
		observe = func(string) {}
	}
	d = NewDispatcher([]*Receiver{r}, f.l, slog.New(slog.DiscardHandler), observe)
	ctx, cancel := context.WithCancel(f.t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); d.Run(ctx) }()
	testutil.Must(f.t, d.Lead(f.t.Context(), time.Now()))
	stop = sync.OnceFunc(func() { cancel(); <-ended })
	f.t.Cleanup(stop)
	return d, stop
}

type transport func(*http.Request) (*http.Response, error)

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

func (f *fleet) taken() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.got)
}

// attempts is how often the receiver was asked.
func (f *fleet) attempts() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all
}

func (f *fleet) set(answer func(d ledger.Delivery) (int, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

func yes(ledger.Delivery) (int, error) { return 204, nil }
func no(ledger.Delivery) (int, error)  { return 500, nil }

// inOrder fails unless each subject's events were taken from 1 to n in order, leaving repetitions out.
func (f *fleet) inOrder(n int, subjects ...string) {
	f.t.Helper()
	seen := map[string]bool{}
	next := map[string]int{}
	for _, text := range f.taken() {
		if seen[text] {
			continue
		}
		seen[text] = true
		subject := strings.Fields(text)[0]
		next[subject]++
		if want := fmt.Sprintf("%s %d", subject, next[subject]); text != want {
			f.t.Errorf("%s was taken before %s", text, want)
		}
	}
	for _, subject := range subjects {
		if next[subject] != n {
			f.t.Errorf("%d of %d events about %s were taken", next[subject], n, subject)
		}
	}
}

func bubble(t *testing.T, test func(t *testing.T, f *fleet)) {
	t.Helper()
	redistest.Bubble(t, func(t *testing.T, b *broker.Broker) {
		test(t, &fleet{t: t, l: ledger.New(b.Client()), answer: yes})
	})
}

func put(t *testing.T, d *Dispatcher, n int, subjects ...string) {
	t.Helper()
	for number := range n {
		var events []Event
		for _, subject := range subjects {
			events = append(events, event(subject, int64(number+1)))
		}
		testutil.Must(t, d.Put(t.Context(), events))
	}
}

// A receiver that is down for a while gets each event, once and in order.
func TestReceiverIsDown(t *testing.T) {
	for name, down := range map[string]func(ledger.Delivery) (int, error){
		"it answers 500":  no,
		"nobody is there": func(ledger.Delivery) (int, error) { return 0, errors.New("connection refused") },
		"it hangs": func(ledger.Delivery) (int, error) {
			<-time.After(sendTimeout)
			return 0, context.DeadlineExceeded
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fleet) {
				results := map[string]int{}
				var mu sync.Mutex
				f.set(down)
				d, _ := f.leader(func(result string) { mu.Lock(); results[result]++; mu.Unlock() })
				put(t, d, 3, "a", "b", "c")
				testutil.Advance(10 * time.Minute)
				if got := f.taken(); len(got) > 0 {
					t.Errorf("taken: %v", got)
				}
				if n := f.attempts(); n < 12 || n > 300 {
					t.Errorf("%d attempts in 10 minutes", n)
				}
				f.set(yes)
				testutil.Advance(maxPause + sendTimeout + time.Second)
				synctest.Wait()
				f.inOrder(3, "a", "b", "c")
				if got := f.taken(); len(got) != 9 {
					t.Errorf("taken: %v", got)
				}
				waiting, err := f.l.Deliveries(t.Context())
				testutil.Must(t, err)
				ended, err := f.l.Delivered(t.Context(), 0)
				testutil.Must(t, err)
				if len(waiting) > 0 || len(ended) != 9 || !ended[0].OK || ended[0].Body != "" {
					t.Errorf("%d wait, %d ended: %+v", len(waiting), len(ended), ended[0])
				}
				mu.Lock()
				defer mu.Unlock()
				if results[Delivered] != 9 || results[Failed] < 12 || results[GivenUp] > 0 {
					t.Errorf("%v", results)
				}
			})
		})
	}
}

// An event that is never taken does not hold up those about other batches, and is given up after a day.
func TestPoisonedEvent(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.set(func(d ledger.Delivery) (int, error) {
			if d.Subject == "b" {
				return 400, nil
			}
			return 204, nil
		})
		d, _ := f.leader(nil)
		put(t, d, 3, "a", "b", "c")
		testutil.Advance(time.Minute)
		f.inOrder(3, "a", "c")
		// Others need not wait for the pauses, which are 30 s long by now.
		testutil.Advance(5 * time.Minute)
		put(t, d, 1, "e")
		testutil.Advance(3 * time.Second)
		f.inOrder(1, "e")
		testutil.Advance(25 * time.Hour)
		waiting, err := f.l.Deliveries(t.Context())
		testutil.Must(t, err)
		ended, err := f.l.Delivered(t.Context(), 0)
		testutil.Must(t, err)
		lost := 0
		for _, one := range ended {
			if !one.OK {
				lost++
				if one.Subject != "b" || one.Status != 400 || one.Error == "" || one.Ended.Sub(one.Created) < maxAge {
					t.Errorf("%+v", one)
				}
			}
		}
		if len(waiting) > 0 || lost != 3 {
			t.Errorf("%d wait, %d were given up", len(waiting), lost)
		}
	})
}

// A leader may end at any place. The next one delivers what is left, with the same ids and in order.
func TestLeadersChange(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		ids := map[string]map[string]bool{}
		var mu sync.Mutex
		turn := 0
		f.set(func(d ledger.Delivery) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			if ids[d.Subject] == nil {
				ids[d.Subject] = map[string]bool{}
			}
			ids[d.Subject][d.ID] = true
			if turn++; turn%3 == 0 {
				return 503, nil
			}
			return 204, nil
		})
		first, stop := f.leader(nil)
		put(t, first, 5, "a", "b", "c", "d")
		testutil.Advance(3 * time.Second)
		stop()
		done := len(f.taken())
		if done == 0 || done >= 20 {
			t.Fatalf("%d were taken by the first leader", done)
		}
		second, stop := f.leader(nil)
		put(t, second, 5, "a", "b") // the first one did not note that it had put these
		testutil.Advance(2 * time.Second)
		stop()
		f.leader(nil)
		testutil.Advance(time.Hour)
		f.inOrder(5, "a", "b", "c", "d")
		for subject, known := range ids {
			if len(known) > 5 && (subject == "c" || subject == "d") {
				t.Errorf("%s has %d ids", subject, len(known))
			}
		}
		if waiting, err := f.l.Deliveries(t.Context()); len(waiting) > 0 || err != nil {
			t.Errorf("%+v, %v", waiting, err)
		}
	})
}

// A process that leads again repeats nothing that others have delivered since.
func TestLeadAgain(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.set(no)
		first, _ := f.leader(nil)
		put(t, first, 1, "a")
		testutil.Advance(time.Minute)
		first.Rest()
		f.set(yes)
		_, stop := f.leader(nil)
		testutil.Advance(10 * time.Minute)
		stop()
		testutil.Must(t, first.Lead(t.Context(), time.Now()))
		testutil.Advance(10 * time.Minute)
		if got := f.taken(); len(got) != 1 {
			t.Errorf("taken: %v", got)
		}
	})
}

// A process that does not lead delivers nothing.
func TestRest(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.set(no)
		d, _ := f.leader(nil)
		put(t, d, 1, "a")
		testutil.Advance(time.Minute)
		d.Rest()
		testutil.Advance(time.Minute)
		before := f.attempts()
		f.set(yes)
		testutil.Advance(time.Hour)
		if n := f.attempts() - before; n != 0 {
			t.Errorf("%d attempts", n)
		}
		testutil.Must(t, d.Lead(t.Context(), time.Now()))
		testutil.Advance(10 * time.Minute)
		f.inOrder(1, "a")
	})
}

func TestOfBatch(t *testing.T) {
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		ctx, l, now := t.Context(), ledger.New(b.Client()), time.Now()
		batch := ledger.Batch{ID: "march", Name: "march.csv", Source: "import", State: ledger.Done, Total: 3, Counts: ledger.Counts{ledger.Cancelled: 3}}
		verification := ledger.Batch{ID: "march-verify", Parent: "march", Source: ledger.SourceVerify, State: ledger.Done, Total: 3, Population: 3, Counts: ledger.Counts{ledger.NotPayable: 3}}
		open := batch
		open.State, open.Counts = ledger.Paused, ledger.Counts{ledger.NotFound: 1}
		aborted := open
		aborted.State = ledger.AbortedState
		for _, tt := range []struct {
			name                    string
			batch                   ledger.Batch
			entry                   history.Change
			age                     time.Duration
			want, cause, text, next string
		}{
			{"an import", batch, history.Change{Action: history.Import}, 0, "", "", "", ""},
			{"a start", batch, history.Change{Action: history.Start}, 0, "", "", "", ""},
			{"its end", batch, history.Change{Action: history.Finish, Auto: true}, 0, BatchDone, "", "Batch march (march.csv) is done: 3 cancelled. May be payable: 0 of 3.", ""},
			{"two days ago", batch, history.Change{Action: history.Finish, Auto: true}, 48 * time.Hour, "", "", "", ""},
			{"a pause", open, history.Change{Action: history.Pause, Actor: "ann", Reason: "lunch"}, 0, BatchPaused, "person", "Batch march (march.csv) was paused by ann (lunch): 2 of 3 links pending.", "linkcancel batch show march"},
			{"the canary", open, history.Change{Action: history.Pause, Actor: "linkcancel", Reason: "canary:not_found", Auto: true}, 0, BatchPaused, "canary", "Batch march (march.csv) was paused by linkcancel (canary: 50 links in a row were not_found): 2 of 3 links pending.", "linkcancel batch show march"},
			{"a 204 that is not true", open, history.Change{Action: history.Pause, Actor: "w1", Reason: "a link is still active", Auto: true}, 0, BatchPaused, "unproven", "Batch march (march.csv) was paused by w1 (a link is still active): 2 of 3 links pending.", "linkcancel batch show march"},
			{"a pause that is over", batch, history.Change{Action: history.Pause, Actor: "ann"}, 0, BatchPaused, "person", "Batch march (march.csv) was paused by ann.", "linkcancel batch show march"},
			{"an abort", aborted, history.Change{Action: history.Abort, Actor: "ann"}, 0, BatchAborted, "", "Batch march (march.csv) was aborted by ann: 2 of 3 links pending.", ""},
			{"its end after an abort", aborted, history.Change{Action: history.Finish, Auto: true}, 0, "", "", "", ""},
			{"a verification", verification, history.Change{Action: history.Finish, Auto: true}, 0, VerificationDone, "", "The verification march-verify of batch march is done: all 3 links read: none is payable.", ""},
		} {
			e := history.Entry{Owner: tt.batch.ID, Number: 4, Time: now.Add(-tt.age), Change: tt.entry}
			got, known, err := OfBatch(ctx, l, tt.batch, e, now, "https://x.example/")
			if err != nil || known != (tt.want != "") || got.Type != tt.want || got.Data.Cause != tt.cause || got.Data.Text != tt.text || got.Data.Next != tt.next {
				t.Errorf("%s: %+v, %t, %v", tt.name, got, known, err)
			}
			if known && (got.Data.Report != "https://x.example/batches/"+tt.batch.ID+"/report" || got.Subject != tt.batch.ID || got.Number != 4 || !strings.HasPrefix(got.ID, "msg_")) {
				t.Errorf("%s: %+v", tt.name, got)
			}
		}
	})
}

func TestOfSweep(t *testing.T) {
	now := time.Now()
	sweeps := ledger.Sweeps{Last: &ledger.SweepRun{Ended: now, Batch: "sweep-1", Counts: ledger.SweepCounts{Listed: 9, Selected: 4}}}
	for _, tt := range []struct {
		entry      history.Change
		want, text string
	}{
		{history.Change{Action: history.RateSet}, "", ""},
		{history.Change{Action: history.SweepEnded, Auto: true, Detail: "9 listed, 4 selected"}, SweepDone, "The scheduled sweep is done: 9 listed, 4 selected."},
		{history.Change{Action: history.SweepFailed, Auto: true, Reason: "no list"}, SweepFailed, "The scheduled sweep failed: no list."},
		{history.Change{Action: history.SweepFailed, Auto: true, Reason: "found 20", Detail: history.Refused}, SweepRefused, "The scheduled sweep was refused: found 20."},
		{history.Change{Action: history.SweepFailed, Actor: "ann", Reason: "found 20", Detail: history.Refused}, SweepRefused, "The sweep by ann was refused: found 20."},
	} {
		got, known := OfSweep(sweeps, history.Entry{Owner: history.Sweep, Number: 2, Time: now, Change: tt.entry}, now, "")
		if got.Type != tt.want || known != (tt.want != "") || got.Data.Text != tt.text || known && got.Data.Sweep.Listed != 9 {
			t.Errorf("%+v: %+v", tt.entry, got)
		}
	}
}
