package ledger

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"linkcancel/internal/broker"
	"linkcancel/internal/history"
	"linkcancel/internal/redistest"
	"linkcancel/internal/task"
)

// rule is one rule of the ledger, with the test that tries to break it.
type rule struct {
	name string
	test func(l *bench)
}

// hold tests rules on the embedded Redis and on a real one, each of them on an empty database.
func hold(t *testing.T, rules []rule) {
	t.Helper()
	t.Parallel()
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		client := patient(t, b.Client())
		for _, r := range rules {
			t.Run(r.name, func(t *testing.T) {
				redistest.Flush(t, client)
				r.test(&bench{T: t, Ledger: New(client)})
			})
		}
	})
}

// patient returns a client that waits for a minute. On a busy machine others give up an answer, and send
// the command again.
func patient(t *testing.T, of redis.UniversalClient) redis.UniversalClient {
	t.Helper()
	var client redis.UniversalClient
	switch of := of.(type) {
	case *redis.ClusterClient:
		options := *of.Options()
		options.ReadTimeout = time.Minute
		client = redis.NewClusterClient(&options)
	case *redis.Client:
		options := *of.Options()
		options.ReadTimeout = time.Minute
		client = redis.NewClient(&options)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// bench is a ledger under test.
type bench struct {
	*testing.T
	*Ledger
}

// must ends the test if there is an error.
func (l *bench) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

// links are the ids of the links of a batch from one place to another.
func links(from, to int) []string {
	ids := make([]string, 0, to-from)
	for i := from; i < to; i++ {
		ids = append(ids, fmt.Sprintf("pl_%d", i))
	}
	return ids
}

func (l *bench) create(cfg DraftConfig) *Draft {
	l.Helper()
	d, sealed, err := l.Create(l.Context(), cfg)
	if err != nil || sealed {
		l.Fatalf("create %s: sealed %v, %v", cfg.ID, sealed, err)
	}
	return d
}

// draft begins a batch "b" and writes all its chunks.
func (l *bench) draft(total int) *Draft {
	l.Helper()
	d := l.create(DraftConfig{ID: "b", Source: "import", Name: "stale.csv"})
	l.write(d, total)
	return d
}

func (l *bench) write(d *Draft, total int) {
	l.Helper()
	l.must(d.Write(l.Context(), slices.Collect(slices.Chunk(links(0, total), ChunkLinks))...))
}

// batch makes a sealed batch.
func (l *bench) batch(id string, total int, canary bool) Batch {
	l.Helper()
	d := l.create(DraftConfig{ID: id, Source: "import", Canary: canary})
	l.write(d, total)
	l.must(d.Seal(l.Context(), "digest", 0, 0))
	return l.get(id)
}

// running makes a batch "b" that is fed.
func (l *bench) running(total int) Batch {
	l.Helper()
	b := l.batch("b", total, false)
	l.must(l.Start(l.Context(), &b, 1, 50, "w1"))
	return b
}

// rowAndKind makes what a batch "b" knows of rows and kinds of answers.
func (l *bench) rowAndKind() {
	l.Helper()
	l.must(l.rdb.Set(l.Context(), "lc:{b}:c", "\x00\x00\x00\x00", 0).Err())
	l.set("lc:{b}:k", "404 empty", "1 1 0 0")
}

func (l *bench) get(id string) Batch {
	l.Helper()
	b, err := l.Get(l.Context(), id)
	l.must(err)
	return b
}

func (l *bench) hash(key string) map[string]string {
	l.Helper()
	h, err := l.rdb.HGetAll(l.Context(), key).Result()
	l.must(err)
	return h
}

func (l *bench) set(key string, values ...any) {
	l.Helper()
	l.must(l.rdb.HSet(l.Context(), key, values...).Err())
}

// otherClient is the client of another process.
func (l *bench) otherClient() redis.UniversalClient {
	l.Helper()
	return patient(l.T, l.rdb)
}

// discardDead deletes an import as if its importer had died.
func (l *bench) discardDead(id string) error {
	_, err := l.DiscardDead(l.Context(), id, 0)
	return err
}

// ago is a time before now as the ledger keeps it.
func (l *bench) ago(d time.Duration) int64 {
	l.Helper()
	now, err := l.Now(l.Context())
	l.must(err)
	return now.Add(-d).UnixMilli()
}

// keys are all keys of the database, sorted.
func (l *bench) keys() []string {
	l.Helper()
	return redistest.Keys(l, l.rdb, "*")
}

// expires checks that keys are there and end within an hour.
func (l *bench) expires(keys ...string) {
	l.Helper()
	for _, key := range keys {
		if ttl := l.rdb.TTL(l.Context(), key).Val(); ttl <= 0 || ttl > time.Hour {
			l.Errorf("%s expires in %v", key, ttl)
		}
	}
}

// commit writes entries of chunk 0 of batch "b".
func (l *bench) commit(entries ...Entry) Committed {
	l.Helper()
	c := l.Commit(l.Context(), []Group{{Batch: "b", Entries: entries}})[0]
	l.must(c.Err)
	return c
}

// record reads a record of chunk 0 of batch "b", without its time.
func (l *bench) record(position int) Record {
	l.Helper()
	records, err := l.Records(l.Context(), "b", 0, position, 1)
	l.must(err)
	records[0].After = 0
	return records[0]
}

func (l *bench) text(position int) string {
	l.Helper()
	texts, err := l.ErrorTexts(l.Context(), "b", 0, []int{position})
	l.must(err)
	return texts[0]
}

func (l *bench) equal(what string, want, got any, opts ...cmp.Option) {
	l.Helper()
	if diff := cmp.Diff(want, got, opts...); diff != "" {
		l.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func (l *bench) fails(what string, err, want error) {
	l.Helper()
	if !errors.Is(err, want) {
		l.Errorf("%s: %v, want %v", what, err, want)
	}
}

// outcomes are entries with one outcome for the links from one place to another.
func outcomes(o Outcome, from, to int) []Entry {
	var entries []Entry
	for pos := from; pos < to; pos++ {
		entries = append(entries, Entry{Position: pos, Record: Record{Outcome: o, Attempts: 1}})
	}
	return entries
}

func TestBatchIDs(t *testing.T) {
	for id, good := range map[string]bool{
		"a": true, "A-Z_a.z-09": true, strings.Repeat("x", 64): true, "..": false, ".": false, "...": true, "Latest": true,
		"": false, "latest": false, strings.Repeat("x", 65): false, "a b": false, "a:b": false, "{a}": false,
		"a~1": false, "a/b": false, "é": false, "a\n": false, "*": false,
	} {
		if err := CheckBatchID(id); (err == nil) != good {
			t.Errorf("CheckBatchID(%q) = %v", id, err)
		}
	}
}

func TestMadeUpIDsSortByTimeAndDiffer(t *testing.T) {
	at := time.Date(2026, 2, 3, 23, 59, 59, 0, time.FixedZone("", 3600))
	last := ""
	for i := range 100 {
		id := NewBatchID(at.Add(time.Duration(i) * time.Second))
		if err := CheckBatchID(id); err != nil {
			t.Error(err)
		}
		if id <= last {
			t.Errorf("%s after %s", id, last)
		}
		last = id
	}
	if id := NewBatchID(at); !strings.HasPrefix(id, "20260203-225959-") {
		t.Errorf("%s does not begin with the time in UTC", id)
	}
	if a, b := NewBatchID(at), NewBatchID(at); a == b {
		t.Errorf("%s twice", a)
	}
}

func TestEveryKeyOfABatchHasItsHashTag(t *testing.T) {
	hold(t, []rule{{"hash tag", func(l *bench) {
		b := l.running(1001)
		_, err := l.LinkStatus(l.Context(), "b", "paid")
		l.must(err)
		l.rowAndKind()
		l.must(l.SetRedeliveries(l.Context(), "b", "0:0", 1))
		for chunk := range 2 {
			c := l.Commit(l.Context(), []Group{{Batch: "b", Chunk: chunk, Entries: []Entry{{Record: Record{Outcome: Rejected}, Error: "no"}}}})
			l.must(c[0].Err)
		}
		keys := l.keys()
		l.equal("the keys", []string{
			"lc:batches", "lc:open", "lc:{b}", "lc:{b}:a", "lc:{b}:c", "lc:{b}:e", "lc:{b}:h", "lc:{b}:k", "lc:{b}:m:0", "lc:{b}:m:1", "lc:{b}:r:0", "lc:{b}:r:1", "lc:{b}:s",
		}, keys)
		listed := append(batchKeys(b), history.Key("b"), keyBatches, keyOpen)
		slices.Sort(listed)
		l.equal("the keys that are listed for the end of the batch", listed, keys)
	}}})
}

// down is a ledger whose Redis cannot be reached.
func down(t *testing.T) *Ledger {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{})
	if err := rdb.Close(); err != nil {
		t.Fatal(err)
	}
	return New(rdb)
}

func TestAwayRedisIsNoMissingBatch(t *testing.T) {
	l, ctx := down(t), t.Context()
	b := Batch{ID: "b", Chunks: 1, Total: 1}
	calls := map[string]error{}
	_, calls["Get"] = l.Get(ctx, "b")
	_, calls["List"] = l.List(ctx)
	_, calls["Unfinished"] = l.Unfinished(ctx)
	_, calls["Resolve"] = l.Resolve(ctx, "b")
	_, calls["Resolve latest"] = l.Resolve(ctx, "latest")
	_, _, calls["Pause"] = l.Pause(ctx, "b", history.By{Reason: "", Auto: true})
	calls["Prune"] = l.Prune(ctx)
	calls["Retire"] = l.Retire(ctx, b, time.Hour)
	calls["Delete"] = l.Delete(ctx, Batch{ID: "b", State: Done}, history.By{Actor: "ann"}, time.Hour)
	calls["Commit"] = l.Commit(ctx, []Group{{Batch: "b", Entries: outcomes(Failed, 0, 1)}})[0].Err
	calls["FillAborted"] = l.FillAborted(ctx, b)
	_, calls["LinkStatus"] = l.LinkStatus(ctx, "b", "paid")
	_, calls["Records"] = l.Records(ctx, "b", 0, 0, 1)
	_, calls["Slice"] = l.Slice(ctx, "b", 0, 0, 1)
	_, calls["ErrorTexts"] = l.ErrorTexts(ctx, "b", 0, []int{0})
	_, calls["Links"] = l.Links(ctx, "b", 0)
	_, calls["Snapshot"] = l.Snapshot(ctx, b)
	_, _, calls["Create"] = l.Create(ctx, DraftConfig{ID: "b"})
	d := &Draft{l: l, id: "b"}
	calls["Write"] = d.Write(ctx, []string{"a"})
	calls["Restore"] = d.Restore(ctx, 0, []Record{{Ambiguous: true}}, nil)
	calls["Seal"] = d.Seal(ctx, "", 0, 0)
	calls["Discard"] = d.Discard(ctx)
	_, calls["DiscardDead"] = l.DiscardDead(ctx, "b", 0)
	_, calls["Lease"] = l.Lease(ctx, "a", time.Second)
	calls["Unlease"] = l.Unlease(ctx, "a")
	calls["Start"] = l.Start(ctx, &b, 1, 1, "w1")
	calls["Advance"] = l.Advance(ctx, b, 1, 1, 1)
	_, calls["Again"] = l.Redeliveries(ctx, "b")
	calls["SetRedeliveries"] = l.SetRedeliveries(ctx, "b", "0:0", 1)
	calls["Beat"] = l.Heartbeat(ctx, WorkerBeat{ID: "w"})
	calls["Gone"] = l.Deregister(ctx, "w")
	_, _, calls["Workers"] = l.Workers(ctx)
	_, calls["Kind"] = l.Kind(ctx, "b", "404 empty")
	_, calls["API"] = l.API(ctx)
	calls["ClaimAPI"] = l.ClaimAPI(ctx, "https://a", history.By{Actor: "ann"})
	calls["SetAPI"] = l.SetAPI(ctx, "https://a", history.By{Actor: "ann"})
	calls["ProveAPI"] = l.ProveAPI(ctx, "https://a")
	_, calls["Salt"] = l.Salt(ctx)
	for _, err := range l.Walk(ctx, b) {
		calls["Walk"] = err
	}
	for _, err := range l.AllLinks(ctx, b) {
		calls["AllLinks"] = err
	}
	for call, err := range calls {
		if err == nil || errors.As(err, new(*OtherAPIError)) || errors.Is(err, ErrWorkersAlive) || errors.Is(err, ErrNoBatch) || errors.Is(err, ErrTaken) || errors.Is(err, ErrNotLeader) {
			t.Errorf("%s: %v", call, err)
		}
	}
}

// Whatever a batch may be called: all its keys are in one slot of a cluster, no
// other batch has one of them, and no pattern or key of ours is made of it.
func FuzzBatchID(f *testing.F) {
	for _, id := range []string{"a", "latest", "", ".", "..", "a}b", "{a", "a:m:0", "a b", "a\n", "é", "*", "20260101-000000-0a1b2c", strings.Repeat("x", 64), strings.Repeat("x", 65)} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		if CheckBatchID(id) != nil {
			return
		}
		if len(id) > task.MaxBatchID || strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") != "" {
			t.Fatalf("%q is taken for an id", id)
		}
		for _, key := range []string{keyBatch(id), keyChunk(id, 7), keyRecords(id, 7), keyErrors(id), keyLinkStatus(id), keyTombstone(id), keyRedeliveries(id), keyKinds(id), keyRow(id)} {
			_, tag, _ := strings.Cut(key, "{")
			if tag, _, _ = strings.Cut(tag, "}"); tag != id {
				t.Errorf("the hash tag of %q is %q", key, tag)
			}
			for _, ours := range []string{keyBatches, keyOpen, keyFeeder, keyEpoch, keyWorkers, keyAPI, keyPeople, keyAuto, keyIndexed, keyDeleted} {
				if key == ours {
					t.Errorf("batch %q has the key %s", id, ours)
				}
			}
		}
	})
}
