package worker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/broker"
	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/redistest"
	"linkcancel/internal/sandbox"
)

// What earlier releases, or commits, left in Redis: two batches, one in the
// middle of its drain, one not yet begun, and in newer files a verification. A line is
//
//	link ID STATUS STATUS     a link's status at the API before the drain, and now
//	redis COMMAND …           what makes a key
//
// with each word quoted as in Go. TestWriteUpgrade writes such a file.
const upgradeFiles = "testdata/upgrade/*.txt"

// A fleet of today drains what an earlier release began.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(upgradeFiles)
	must(t, err)
	packed := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		if strings.Contains(string(text), `"lc:{b1}:m:0" "\x01`) {
			packed++
		}
	}
	if packed == 0 || packed == len(files) {
		t.Fatalf("%d of %d files have packed ids", packed, len(files))
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, b *broker.Broker) { drainUpgrade(t, b, file) })
		})
	}
}

func drainUpgrade(t *testing.T, b *broker.Broker, file string) {
	f := newFleet(t, b)
	was, api := loadUpgrade(t, b, file)
	began := f.records("b1")
	var settled []string // links that have their outcome
	for link, r := range began {
		if r.Record.Outcome != ledger.None {
			settled = append(settled, link)
		}
	}
	if len(settled) == 0 || len(settled) == len(began) {
		t.Fatalf("%d of %d links have an outcome before the drain", len(settled), len(began))
	}
	client := serve(t, api, memoryTimeout)
	f.work(Config{Rate: 400}, client, nil)
	f.feed(400)
	f.done("b1")
	f.done("b2")
	for _, id := range []string{"b1", "b2"} {
		for link, r := range f.records(id) {
			if bad := misjudged(was[link], r); bad != "" {
				t.Errorf("%s was %q, and %s: %+v", link, was[link], bad, r)
			}
			if first, ok := began[link]; ok && first.Record.Outcome != ledger.None && first != r {
				t.Errorf("%s had %+v, and has %+v", link, first, r)
			}
		}
	}
	for _, r := range api.Requests() {
		if slices.Contains(settled, r.ID) {
			t.Errorf("a request for %s, which had its outcome", r.ID)
		}
	}
	if there, err := f.l.Get(t.Context(), "v1"); err == nil {
		f.done("v1")
		if !there.Verifies() {
			t.Errorf("%+v", there)
		}
		for link, r := range f.records("v1") {
			want := ledger.NotPayable
			if was[link] == "active" {
				want = ledger.StillPayable
			}
			if r.Record.Outcome != want {
				t.Errorf("%s is %q, and %+v", link, was[link], r)
			}
		}
	}
	f.until("an empty queue", func() bool { return f.queued() == 0 })
}

// misjudged says what is wrong with the outcome of a link that had a status when
// its batch was made.
func misjudged(was string, r ledger.LinkRecord) string {
	o := r.Record.Outcome
	switch {
	case was == "active" && o != ledger.Cancelled:
		return "we cancelled it"
	case was == "cancelled" && o != ledger.AlreadyCancelled && (o != ledger.Cancelled || !r.Record.Ambiguous):
		return "somebody else cancelled it"
	case (was == "paid" || was == "expired") && (o != ledger.NotCancellable || r.LinkStatus != was):
		return "cannot be cancelled"
	case was == "" && o != ledger.NotFound:
		return "is not known"
	}
	return ""
}

// loadUpgrade makes the keys of a file, and an API with its links.
func loadUpgrade(t *testing.T, b *broker.Broker, file string) (was map[string]string, api *sandbox.Server) {
	t.Helper()
	in, err := os.Open(file)
	must(t, err)
	defer in.Close()
	was = map[string]string{}
	api = sandbox.New(sandbox.Config{KeepRequests: 10_000})
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		what, rest, _ := strings.Cut(lines.Text(), " ")
		var words []any
		for rest = strings.TrimSpace(rest); rest != ""; rest = strings.TrimSpace(rest) {
			quoted, err := strconv.QuotedPrefix(rest)
			must(t, err)
			word, err := strconv.Unquote(quoted)
			must(t, err)
			words, rest = append(words, word), rest[len(quoted):]
		}
		switch what {
		case "link":
			id := words[0].(string)
			was[id] = words[1].(string)
			api.SetStatus(id, words[2].(string))
		case "redis":
			if key := words[1].(string); strings.HasSuffix(key, ":lease") || strings.HasSuffix(key, ":retry") {
				for i := 2; i < len(words); i += 2 {
					words[i] = "1" // long ago, whatever this machine's clock says
				}
			}
			must(t, b.Client().Do(t.Context(), words...).Err())
		default:
			t.Fatalf("%s: %q", file, lines.Text())
		}
	}
	must(t, lines.Err())
	return was, api
}

// TestWriteUpgrade writes what this release leaves in Redis in the middle of a
// drain, for the releases to come: UPGRADE=NAME go test -run TestWriteUpgrade ./worker
func TestWriteUpgrade(t *testing.T) {
	name := os.Getenv("UPGRADE")
	if name == "" {
		return // it makes a file, and tests nothing
	}
	f := newFleet(t, redistest.Open(t, redistest.Start(t)))
	api := sandbox.New(sandbox.Config{Seed: 3, Links: 243, Paid: .05, Expired: .05, Cancelled: .1, Missing: .05})
	before, ids := truth(api), api.IDs()
	f.batch("b1", ids[:200]...)
	f.verification("v1", ids[203:]...)
	lost := map[string]bool{ids[5]: true, ids[7]: true, ids[25]: true} // no answer, the second one applied
	var calls, hanging atomic.Int64
	const most, concurrency = 90, 5
	ended := make(chan struct{})
	p := f.work(Config{Rate: 40, Concurrency: concurrency}, through{memory{api}, func(ctx context.Context, method, id string) error {
		switch {
		case calls.Add(1) > most:
			if hanging.Add(1)%2 == 0 {
				_, _ = memory{api}.Cancel(context.Background(), id) // and nobody hears of it
			}
			<-ended
		case method == "GET" && before[id] == "paid", lost[id] && id != ids[7]:
		case lost[id]:
			_, _ = memory{api}.Cancel(ctx, id)
		default:
			return nil
		}
		return &plexy.TransportError{Method: method, Sent: true, Err: errors.New("cut")}
	}}, nil)
	stop := f.feed(40)
	f.until("calls that hang", func() bool { return hanging.Load() == concurrency })
	stop()
	f.batch("b2", ids[200:203]...)
	var out strings.Builder
	for _, id := range ids {
		now, _ := api.Status(id)
		fmt.Fprintf(&out, "link %q %q %q\n", id, before[id], now)
	}
	dump(t, &out, f.b.Client())
	must(t, os.WriteFile(filepath.Join(filepath.Dir(upgradeFiles), name+".txt"), []byte(out.String()), 0o644))
	close(ended)
	must(t, p.stop())
}

// dump writes the commands that make all keys that do not expire.
func dump(t *testing.T, out *strings.Builder, rdb redis.UniversalClient) {
	ctx := t.Context()
	keys, err := rdb.Keys(ctx, "*").Result()
	must(t, err)
	slices.Sort(keys)
	for _, key := range keys {
		if rdb.PTTL(ctx, key).Val() >= 0 || key == "asynq:servers" || key == "asynq:workers" {
			continue // gone with its process
		}
		var words []string
		switch kind := rdb.Type(ctx, key).Val(); kind {
		case "none": // expired meanwhile
			continue
		case "string":
			words = []string{"set", key, rdb.Get(ctx, key).Val()}
		case "list":
			words = append([]string{"rpush", key}, rdb.LRange(ctx, key, 0, -1).Val()...)
		case "set":
			words = append([]string{"sadd", key}, rdb.SMembers(ctx, key).Val()...)
		case "hash":
			words = []string{"hset", key}
			h := rdb.HGetAll(ctx, key).Val()
			var fields []string
			for field := range h {
				fields = append(fields, field)
			}
			slices.Sort(fields)
			for _, field := range fields {
				words = append(words, field, h[field])
			}
		case "zset":
			words = []string{"zadd", key}
			for _, z := range rdb.ZRangeWithScores(ctx, key, 0, -1).Val() {
				words = append(words, strconv.FormatFloat(z.Score, 'f', -1, 64), z.Member.(string))
			}
		default:
			t.Fatalf("%s is a %s", key, kind)
		}
		fmt.Fprint(out, "redis")
		for _, word := range words {
			fmt.Fprint(out, " ", strconv.QuoteToASCII(word))
		}
		fmt.Fprintln(out)
	}
}
