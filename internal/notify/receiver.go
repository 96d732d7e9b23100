package notify

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"linkcancel/internal/ledger"
)

// The formats of messages.
const (
	FormatGeneric = "generic" // JSON, by the Standard Webhooks specification
	FormatSlack   = "slack"   // a text, for an incoming webhook
)

// sendTimeout is how long one request may take, with its answer.
const sendTimeout = 10 * time.Second

// Receiver is who gets notifications. Its URL may be a secret: Name stands for it.
type Receiver struct {
	Name   string // the host and a fingerprint of the URL
	url    string
	format string
	signer *standardwebhooks.Webhook // nil: not signed
	client *http.Client
	agent  string
}

// Config configures receivers.
type Config struct {
	URLs         []string
	Format       string
	Secret       string // whsec_ and base64, or base64; "": messages are not signed
	InsecureHTTP bool   // allow plain http beyond this machine
	UserAgent    string
}

// ErrPlainHTTP means plain http to another machine.
var ErrPlainHTTP = errors.New("it would be sent unencrypted")

// Receivers checks a configuration and returns its receivers. Errors do not show a URL beyond its host.
func Receivers(cfg Config) ([]*Receiver, error) {
	var signer *standardwebhooks.Webhook
	if cfg.Secret != "" {
		var err error
		if signer, err = standardwebhooks.NewWebhook(cfg.Secret); err != nil {
			return nil, errors.New("the secret is not base64, with or without whsec_ before it")
		}
		if len(strings.TrimPrefix(cfg.Secret, "whsec_")) < 16 {
			return nil, errors.New("the secret is too short: use 24 random bytes or more")
		}
	}
	client := &http.Client{
		Timeout: sendTimeout,
		// A redirect would send the message, and perhaps a secret in the URL, to somebody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: sendTimeout}).DialContext,
			TLSHandshakeTimeout: sendTimeout, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
		},
	}
	var all []*Receiver
	for i, raw := range cfg.URLs {
		u, err := url.Parse(raw)
		switch {
		case err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
			return nil, fmt.Errorf("URL %d is not one: it should look like https://example.com/hook", i+1)
		case u.Scheme == "http" && !cfg.InsecureHTTP && !loopback(u.Hostname()):
			return nil, fmt.Errorf("%s: %w", u.Host, ErrPlainHTTP)
		}
		sum := sha256.Sum256([]byte(raw))
		name := u.Host + "#" + hex.EncodeToString(sum[:3])
		all = append(all, &Receiver{Name: name, url: raw, format: cfg.Format, signer: signer, client: client, agent: cfg.UserAgent})
	}
	return all, nil
}

// loopback reports whether host is this machine by its name or address, without a look-up.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// Delivery is an event for the receiver.
func (r *Receiver) Delivery(e Event) (ledger.Delivery, error) {
	body, err := e.Body(r.format)
	return ledger.Delivery{
		ID: e.ID, Type: e.Type, Receiver: r.Name, Subject: e.Subject, Number: e.Number, Body: body, Created: e.Time.UTC(), Next: e.Time.UTC(),
	}, err
}

// Send makes one attempt. The error does not show the URL. status is 0 without an answer.
func (r *Receiver) Send(ctx context.Context, d ledger.Delivery) (status int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url, strings.NewReader(d.Body))
	if err != nil {
		return 0, errors.New("the URL cannot be used")
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", r.agent)
	if r.format == FormatGeneric {
		now := time.Now()
		request.Header.Set(standardwebhooks.HeaderWebhookID, d.ID)
		request.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
		if r.signer != nil {
			signature, err := r.signer.Sign(d.ID, now, []byte(d.Body))
			if err != nil {
				return 0, fmt.Errorf("sign notification %s: %w", d.ID, err)
			}
			request.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
		}
	}
	answer, err := r.client.Do(request)
	if err != nil {
		var failed *url.Error
		if errors.As(err, &failed) {
			err = failed.Err
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return 0, fmt.Errorf("no answer within %v", sendTimeout)
		}
		return 0, err
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10)) // so that the connection can be used again
	if answer.StatusCode/100 != 2 {
		return answer.StatusCode, fmt.Errorf("answered %d", answer.StatusCode)
	}
	return answer.StatusCode, nil
}
