package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"linkcancel/internal/history"
	"linkcancel/internal/ledger"
)

// receiver is a server that the fleet notifies. It checks the signatures by code of its own.
type receiver struct {
	addr   string
	path   string // nobody else may know it
	secret []byte

	mu     sync.Mutex
	server *http.Server
	fault  string
	healed chan struct{} // closed when the fault ends
	got    []notification
	wrong  string // what was wrong with a notification
}

// notification is one that the receiver got for the first time.
type notification struct {
	id, kind, batch string
	happened        time.Time
}

// receiverFaults are what a receiver does with notifications: those of the last kind it has read.
var receiverFaults = []string{"500", "302", "down", "hangs", "answer lost"}

func startReceiver() (*receiver, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	r := &receiver{addr: fmt.Sprintf("127.0.0.1:%d", port), path: "/" + strings.ToLower(rand.Text()), secret: []byte(rand.Text())}
	return r, r.up()
}

// environment is what a program needs to notify the receiver.
func (r *receiver) environment() []string {
	return []string{"LINKCANCEL_NOTIFY_URL=http://" + r.addr + r.path, "LINKCANCEL_NOTIFY_SECRET=whsec_" + base64.StdEncoding.EncodeToString(r.secret)}
}

func (r *receiver) up() error {
	var l net.Listener
	err := again(func() (err error) {
		l, err = net.Listen("tcp", r.addr)
		return err
	})
	if err != nil {
		return fmt.Errorf("the receiver of notifications: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.server = &http.Server{Handler: http.HandlerFunc(r.take), ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: callTimeout}
	go func(s *http.Server) { _ = s.Serve(l) }(r.server)
	return nil
}

func (r *receiver) down() {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.server.Close()
}

func (r *receiver) take(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return
	}
	r.mu.Lock()
	fault, healed := r.fault, r.healed
	r.mu.Unlock()
	switch fault {
	case "500":
		http.Error(w, "down for maintenance", http.StatusInternalServerError)
	case "302":
		http.Redirect(w, q, "/elsewhere", http.StatusFound)
	case "hangs":
		select {
		case <-healed:
		case <-q.Context().Done():
		}
		panic(http.ErrAbortHandler)
	case "answer lost":
		r.note(q, body)
		panic(http.ErrAbortHandler)
	default:
		r.note(q, body)
		w.WriteHeader(http.StatusNoContent)
	}
}

// note checks a notification, and keeps it if it is new.
func (r *receiver) note(q *http.Request, body []byte) {
	id, stamp := q.Header.Get("webhook-id"), q.Header.Get("webhook-timestamp")
	mac := hmac.New(sha256.New, r.secret)
	fmt.Fprintf(mac, "%s.%s.%s", id, stamp, body)
	want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	var message struct {
		Type      string
		Timestamp time.Time
		Data      struct{ Batch struct{ Batch string } }
	}
	err := json.Unmarshal(body, &message)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case q.URL.Path != r.path:
		r.wrong = "it came to another path, as if a redirect had been followed"
	case id == "" || q.Header.Get("webhook-signature") != want:
		r.wrong = fmt.Sprintf("the signature of %q is wrong", id)
	case err != nil:
		r.wrong = err.Error()
	}
	for _, n := range r.got {
		if n.id == id {
			return
		}
	}
	r.got = append(r.got, notification{id: id, kind: message.Type, batch: message.Data.Batch.Batch, happened: message.Timestamp})
}

// setFault lets the receiver fail until it is called with "".
func (r *receiver) setFault(fault string) error {
	r.mu.Lock()
	was := r.fault
	r.fault = fault
	if r.healed != nil {
		close(r.healed)
		r.healed = nil
	}
	if fault != "" {
		r.healed = make(chan struct{})
	}
	r.mu.Unlock()
	switch {
	case fault == "down":
		r.down()
	case was == "down":
		return r.up()
	}
	return nil
}

// receiverFault lets the receiver of notifications fail for a time.
func (r *round) receiverFault(ctx context.Context, e event) error {
	r.receiverBusy.Lock()
	defer r.receiverBusy.Unlock()
	began := time.Now()
	fault := receiverFaults[e.pick(len(receiverFaults))]
	if err := r.receiver.setFault(fault); err != nil {
		return err
	}
	sleep(ctx, e.lasts+time.Second)
	err := r.receiver.setFault("")
	r.happened(e.kind, began, "%s", fault)
	return err
}

// due are the notifications that a batch must have led to, by type.
func (r *round) due(ctx context.Context, b ledger.Batch) (map[string]int, error) {
	entries, err := r.ledger.History(ctx, b.ID)
	if err != nil {
		return nil, err
	}
	due := map[string]int{}
	for _, e := range entries {
		if e.Action == history.Pause {
			due["batch.paused"]++
		}
	}
	switch {
	case b.State == ledger.AbortedState:
		due["batch.aborted"]++
	case b.State != ledger.Done:
	case b.Verifies() && b.Counts[ledger.StillPayable] > 0:
		due["verification.payable"]++
	case b.Verifies():
		due["verification.done"]++
	default:
		due["batch.done"]++
	}
	return due, nil
}

// missing names a notification that has not come, "" if all have.
func (r *round) missing(ctx context.Context) (what, batch string, err error) {
	batches, err := r.ledger.List(ctx)
	if err != nil {
		return "", "", err
	}
	r.receiver.mu.Lock()
	got := map[[2]string]int{}
	for _, n := range r.receiver.got {
		got[[2]string{n.batch, n.kind}]++
	}
	r.receiver.mu.Unlock()
	for _, b := range batches {
		due, err := r.due(ctx, b)
		if err != nil {
			return "", "", err
		}
		for kind, n := range due {
			if there := got[[2]string{b.ID, kind}]; there < n {
				return fmt.Sprintf("%d of %d notifications %s came", there, n, kind), b.ID, nil
			}
		}
	}
	return "", "", nil
}

// notifiedWithin is how long a notification may take after the last fault and the end of its batch:
// two pauses of the longest kind.
const notifiedWithin = 70 * time.Second

// awaitNotified waits until all notifications have come.
func (r *round) awaitNotified(ctx context.Context) error {
	if r.plan.before != "" {
		return nil // the earlier program may have ended batches
	}
	for deadline := time.Now().Add(notifiedWithin); ; {
		what, batch, err := r.missing(ctx)
		switch {
		case err != nil:
			return err
		case what == "":
			return nil
		case time.Now().After(deadline):
			r.violate(violation{rule: "every notification comes at least once", batch: batch, what: fmt.Sprintf("%s, %v after the end of all work; %d came in all", what, notifiedWithin, r.receiver.count())})
			return nil
		case !sleep(ctx, 300*time.Millisecond):
			return ctx.Err()
		}
	}
}

// checkNotified: notifications are signed, and come in the order of what happened to a batch.
func (t *truth) checkNotified() {
	t.r.receiver.mu.Lock()
	defer t.r.receiver.mu.Unlock()
	if wrong := t.r.receiver.wrong; wrong != "" {
		t.violate("notifications are signed and go to their receiver only", "", "", time.Time{}, "%s", wrong)
	}
	latest := map[string]notification{}
	for _, n := range t.r.receiver.got {
		if was, ok := latest[n.batch]; ok && n.batch != "" && n.happened.Before(was.happened) {
			t.violate("notifications about a batch come in order", n.batch, "", n.happened, "%s came after %s", n.kind, was.kind)
		}
		latest[n.batch] = n
	}
}

// count is how many notifications came.
func (r *receiver) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got)
}
