package ledger

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp/cmpopts"

	"linkcancel/internal/history"
)

func TestImport(t *testing.T) {
	hold(t, []rule{
		{"a sealed batch is ready and whole", func(l *bench) {
			created := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)
			d := l.create(DraftConfig{ID: "b", Source: "sweep", Name: "nightly", Parent: "a", Canary: true, Created: created})
			l.must(d.Write(l.Context(), links(0, 1000)))
			l.must(d.Write(l.Context(), links(1000, 2000), links(2000, 2001)))
			l.must(d.Seal(l.Context(), "sha", 7, 2))
			b := l.get("b")
			l.equal("the batch", Batch{
				ID: "b", Source: "sweep", Name: "nightly", Parent: "a", State: Ready, Canary: "on", Digest: "sha", History: 1,
				Total: 2001, Chunks: 3, Duplicates: 7, Invalid: 2, Created: created,
			}, b)
			l.equal("pending", int64(2001), b.Pending())
			var got []string
			for link, err := range l.AllLinks(l.Context(), b) {
				l.must(err)
				got = append(got, link)
			}
			l.equal("its links", links(0, 2001), got)
			l.equal("what only an import has", map[string]string{}, l.hash("lc:{b}"),
				cmpopts.IgnoreMapEntries(func(k, _ string) bool { return k != "token" && k != "beat" && k != "written" && k != "links" }))
			for _, key := range l.keys() {
				if ttl := l.rdb.TTL(l.Context(), key).Val(); ttl != -1 {
					l.Errorf("%s expires in %v", key, ttl)
				}
			}
		}},
		{"created is now unless it is given", func(l *bench) {
			before := l.ago(0)
			b := l.batch("b", 1, false)
			if ms := b.Created.UnixMilli(); ms < before || ms > l.ago(0) {
				l.Errorf("created %v", b.Created)
			}
		}},
		{"an import is listed but not open, and nothing can be written to it", func(l *bench) {
			d := l.draft(3)
			b := l.get("b")
			if b.State != Importing || b.Open() || b.Beat.IsZero() {
				l.Errorf("%+v", b)
			}
			all, err := l.List(l.Context())
			l.must(err)
			l.equal("listed", []Batch{b}, all)
			l.fails("commit", l.Commit(l.Context(), []Group{{Batch: "b", Entries: outcomes(Cancelled, 0, 1)}})[0].Err, ErrNoBatch)
			l.fails("start", l.Start(l.Context(), &b, 1, 50, "w1"), ErrNoBatch)
			l.fails("advance", l.Advance(l.Context(), b, 1, 1, 0), ErrNoBatch)
			_, err = l.Slice(l.Context(), "b", 0, 0, 3)
			l.fails("slice", err, ErrNoBatch)
			if state, changed, err := l.Abort(l.Context(), "b", history.By{Actor: "ann"}); state != Importing || changed || err != nil {
				l.Errorf("abort: %s, %v, %v", state, changed, err)
			}
			l.must(d.Seal(l.Context(), "digest", 0, 0))
			l.commit(outcomes(Cancelled, 0, 1)...)
		}},
		{"an unsealed hash expires by itself, its chunks do not", func(l *bench) {
			l.draft(1)
			if ttl := l.rdb.TTL(l.Context(), "lc:{b}").Val(); ttl <= 24*time.Hour || ttl > 48*time.Hour {
				l.Errorf("the hash expires in %v", ttl)
			}
			if ttl := l.rdb.TTL(l.Context(), "lc:{b}:m:0").Val(); ttl != -1 {
				l.Errorf("the chunk expires in %v", ttl)
			}
		}},
		{"a chunk out of order is refused", func(l *bench) {
			d := l.create(DraftConfig{ID: "b"})
			d.chunks = 1
			if err := d.Write(l.Context(), links(0, 10)); err == nil {
				l.Error("chunk 1 before chunk 0 was taken")
			}
			if got := l.rdb.Exists(l.Context(), "lc:{b}:m:1").Val(); got != 0 {
				l.Error("the chunk behind the gap was written")
			}
		}},
		{"a chunk written again changes nothing", func(l *bench) {
			d := l.create(DraftConfig{ID: "b"})
			l.write(d, 1000)
			d.chunks, d.links = 0, 0 // as if the answer was lost
			l.must(d.Write(l.Context(), links(0, 1000), links(1000, 1005)))
			h := l.hash("lc:{b}")
			l.equal("chunks and links", []string{"2", "1005"}, []string{h["written"], h["links"]})
			d.chunks = 0
			l.must(d.Write(l.Context(), []string{"other"}))
			got, err := l.Links(l.Context(), "b", 0)
			l.must(err)
			l.equal("the first chunk", links(0, 1000), got)
		}},
		{"every chunk is a heartbeat", func(l *bench) {
			d := l.create(DraftConfig{ID: "b"})
			l.set("lc:{b}", "beat", l.ago(20*time.Second))
			before := l.ago(0)
			l.write(d, 1)
			if got := l.get("b").Beat.UnixMilli(); got < before {
				l.Errorf("the heartbeat is %d ms old", before-got)
			}
		}},
		{"a busy importer is not disturbed", func(l *bench) {
			d := l.draft(5)
			for _, age := range []time.Duration{0, 20 * time.Second} {
				l.set("lc:{b}", "beat", l.ago(age))
				other, sealed, err := l.Create(l.Context(), DraftConfig{ID: "b"})
				l.fails("create", err, ErrBusy)
				if other != nil || sealed {
					l.Errorf("draft %v, sealed %v", other, sealed)
				}
			}
			l.must(d.Seal(l.Context(), "digest", 0, 0))
		}},
		{"a dead importer is taken over from the beginning", func(l *bench) {
			dead := l.draft(1500)
			l.must(dead.Restore(l.Context(), 1, make([]Record, 500), map[int]string{3: "text"}))
			_, err := l.LinkStatus(l.Context(), "b", "paid")
			l.must(err)
			l.set("lc:{b}", "beat", l.ago(31*time.Second))
			d := l.create(DraftConfig{ID: "b", Source: "sweep"})
			l.equal("keys", []string{"lc:batches", "lc:open", "lc:{b}"}, l.keys())
			l.fails("the dead one's chunk", dead.Write(l.Context(), links(1500, 1600)), ErrTaken)
			l.fails("what the dead one knows", dead.Restore(l.Context(), 0, []Record{{Ambiguous: true}}, map[int]string{0: "text"}), ErrTaken)
			l.equal("keys after the dead one's calls", []string{"lc:batches", "lc:open", "lc:{b}"}, l.keys())
			l.fails("the dead one's seal", dead.Seal(l.Context(), "digest", 0, 0), ErrTaken)
			l.write(d, 3)
			l.must(d.Seal(l.Context(), "other digest", 0, 0))
			l.fails("the dead one's seal after the seal", dead.Seal(l.Context(), "digest", 0, 0), ErrTaken)
			l.fails("the dead one's chunk after the seal", dead.Write(l.Context(), links(1500, 1600)), ErrTaken)
			l.fails("what it knows after the seal", dead.Restore(l.Context(), 0, []Record{{Ambiguous: true}}, nil), ErrTaken)
			l.equal("a record", Record{}, l.record(0))
			b := l.get("b")
			if b.Total != 3 || b.Chunks != 1 || b.Source != "sweep" {
				l.Errorf("%+v", b)
			}
		}},
		{"an importer that was taken over discards nothing", func(l *bench) {
			slow := l.draft(5)
			l.set("lc:{b}", "beat", l.ago(time.Minute))
			d := l.create(DraftConfig{ID: "b"})
			l.write(d, 3)
			l.must(slow.Discard(l.Context()))
			l.must(d.Seal(l.Context(), "digest", 0, 0))
			l.must(slow.Discard(l.Context()))
			l.equal("links", int64(3), l.get("b").Total)
		}},
		{"a batch that stands is not written again", func(l *bench) {
			want := l.batch("b", 5, false)
			d, sealed, err := l.Create(l.Context(), DraftConfig{ID: "b", Source: "other"})
			if d != nil || !sealed || err != nil {
				l.Errorf("%v, %v, %v", d, sealed, err)
			}
			l.equal("the batch", want, l.get("b"))
		}},
		{"an incomplete manifest is not sealed", func(l *bench) {
			d := l.draft(1005)
			for _, change := range []func(*Draft){
				func(d *Draft) { d.links-- },
				func(d *Draft) { d.links++ },
				func(d *Draft) { d.chunks-- },
				func(d *Draft) { d.chunks++ },
				func(d *Draft) { d.token = "other" },
			} {
				wrong := *d
				change(&wrong)
				if err := wrong.Seal(l.Context(), "digest", 0, 0); err == nil {
					l.Errorf("%d links in %d chunks sealed by %s", wrong.links, wrong.chunks, wrong.token)
				}
			}
			if state := l.get("b").State; state != Importing {
				l.Errorf("state %s", state)
			}
			l.must(d.Seal(l.Context(), "digest", 0, 0))
		}},
		{"a repeated seal changes nothing", func(l *bench) {
			d := l.draft(5)
			l.must(d.Seal(l.Context(), "digest", 1, 2))
			b := l.get("b")
			l.must(l.Start(l.Context(), &b, 1, 50, "w1"))
			l.commit(outcomes(Cancelled, 0, 2)...)
			want := l.get("b")
			l.must(d.Seal(l.Context(), "digest", 3, 4))
			l.equal("the batch", want, l.get("b"))
			l.fails("a seal with another digest", d.Seal(l.Context(), "other", 0, 0), ErrTaken)
			l.must(l.rdb.Del(l.Context(), "lc:{b}").Err())
			l.fails("the seal of a deleted batch", d.Seal(l.Context(), "digest", 0, 0), ErrTaken)
		}},
		{"a batch without links is done", func(l *bench) {
			d := l.create(DraftConfig{ID: "b"})
			l.must(d.Seal(l.Context(), "digest", 0, 3))
			if b := l.get("b"); b.State != Done || b.Finished.IsZero() || b.Total != 0 {
				l.Errorf("%+v", b)
			}
		}},
		{"a discarded import leaves no key", func(l *bench) {
			d := l.draft(2500)
			l.must(d.Restore(l.Context(), 2, make([]Record, 500), map[int]string{0: "text"}))
			_, err := l.LinkStatus(l.Context(), "b", "paid")
			l.must(err)
			l.rowAndKind()
			for range 2 {
				l.must(d.Discard(l.Context()))
				l.equal("keys", []string(nil), l.keys())
			}
			l.fails("a late chunk", d.Write(l.Context(), links(2500, 2501)), ErrTaken)
			l.equal("keys after a late chunk", []string(nil), l.keys())
		}},
		{"a dead import is deleted without its draft", func(l *bench) {
			l.draft(2500)
			l.must(l.discardDead("b"))
			l.equal("keys", []string(nil), l.keys())
		}},
		{"a sealed batch is not discarded", func(l *bench) {
			d := l.draft(5)
			l.must(d.Seal(l.Context(), "digest", 0, 0))
			want := l.keys()
			l.must(d.Discard(l.Context()))
			l.must(l.discardDead("b"))
			l.equal("keys", want, l.keys())
		}},
		{"what is restored counts", func(l *bench) {
			d := l.draft(1004)
			first := make([]Record, 1000)
			first[0] = Record{Outcome: Rejected, Attempts: 2, HTTPStatus: 400, After: 77}
			first[1] = Record{Outcome: NotFound, Plain: true, HTTPStatus: 404, After: 78}
			first[2] = Record{Attempts: 1, Due: 79}
			first[999] = Record{Ambiguous: true, Settling: true, Attempts: 1, HTTPStatus: 422}
			last := []Record{{Outcome: Cancelled}, {Outcome: Aborted}, {}, {Outcome: Cancelled, LinkStatus: 3}}
			l.must(d.Restore(l.Context(), 0, first, map[int]string{0: "bad", 999: "text\xff"}))
			l.must(d.Restore(l.Context(), 1, last, map[int]string{1: "aborted"}))
			l.must(d.Seal(l.Context(), "digest", 0, 0))
			b := l.get("b")
			l.equal("counts", Counts{Cancelled: 2, NotFound: 1, Rejected: 1, Aborted: 1}, b.Counts)
			if b.State != Ready || b.Pending() != 999 {
				l.Errorf("%s, %d pending", b.State, b.Pending())
			}
			for chunk, want := range [][]Record{first, last} {
				got, err := l.Records(l.Context(), "b", chunk, 0, len(want))
				l.must(err)
				l.equal("records", want, got)
			}
			l.equal("texts", map[string]string{"0": "bad", "999": "text", "1001": "aborted"}, l.hash("lc:{b}:e"))
		}},
		{"what was known of kinds is not restored", func(l *bench) {
			d := l.draft(1)
			l.must(d.Restore(l.Context(), 0, []Record{{Attempts: 2, HTTPStatus: 404, Plains: 2, LinkStatus: 5, Due: 9}}, nil))
			l.must(d.Seal(l.Context(), "digest", 0, 0))
			l.equal("record", Record{Attempts: 2, HTTPStatus: 404, Due: 9}, l.slice("b", 0).Records[0])
		}},
		{"a text that is restored alone goes with the outcome", func(l *bench) {
			d := l.draft(1)
			l.must(d.Restore(l.Context(), 0, []Record{{}}, map[int]string{0: "no sockets"}))
			l.must(d.Seal(l.Context(), "digest", 0, 0))
			l.equal("text", "no sockets", l.text(0))
			l.commit(outcomes(Cancelled, 0, 1)...)
			l.equal("text after the outcome", "", l.text(0))
		}},
		{"a chunk of which nothing is known takes no room", func(l *bench) {
			d := l.draft(1500)
			want := l.keys()
			l.must(d.Restore(l.Context(), 0, make([]Record, 1000), nil))
			l.equal("keys", want, l.keys())
		}},
		{"what is restored is a heartbeat", func(l *bench) {
			d := l.draft(1)
			l.set("lc:{b}", "beat", l.ago(20*time.Second))
			before := l.ago(0)
			l.must(d.Restore(l.Context(), 0, []Record{{Ambiguous: true}}, nil))
			if got := l.get("b").Beat.UnixMilli(); got < before {
				l.Errorf("the heartbeat is %d ms old", before-got)
			}
		}},
		{"a restore that failed may be repeated", func(l *bench) {
			d := l.draft(1)
			working := d.l
			d.l = down(l.T)
			if err := d.Restore(l.Context(), 0, []Record{{Outcome: Failed}}, nil); err == nil {
				l.Error("no error")
			}
			d.l = working
			l.must(d.Restore(l.Context(), 0, []Record{{Outcome: Failed}}, nil))
			l.must(d.Seal(l.Context(), "digest", 0, 0))
			l.equal("counts", Counts{Failed: 1}, l.get("b").Counts)
		}},
		{"a batch restored with every outcome is done", func(l *bench) {
			before := l.ago(0)
			d := l.draft(7)
			var records []Record
			var want Counts
			for _, o := range Outcomes {
				records = append(records, Record{Outcome: o})
				want[o] = 1
			}
			l.must(d.Restore(l.Context(), 0, records, nil))
			l.must(d.Seal(l.Context(), "digest", 0, 0))
			b := l.get("b")
			l.equal("counts", want, b.Counts)
			if b.State != Done || b.Pending() != 0 || b.Finished.UnixMilli() < before {
				l.Errorf("%+v", b)
			}
		}},
		{"a batch of a newer release is not misread", func(l *bench) {
			l.batch("b", 1, false)
			want := l.keys()
			l.set("lc:{b}", "v", formatVersion+1)
			_, err := l.Get(l.Context(), "b")
			l.fails("get", err, ErrNewer)
			_, err = l.Slice(l.Context(), "b", 0, 0, 1)
			l.fails("slice", err, ErrNewer)
			l.fails("commit", l.Commit(l.Context(), []Group{{Batch: "b", Entries: outcomes(Cancelled, 0, 1)}})[0].Err, ErrNewer)
			l.equal("keys", want, l.keys())
		}},
		{"an import of a newer release is not taken over, one of an older is", func(l *bench) {
			l.draft(5)
			l.set("lc:{b}", "v", formatVersion+1, "beat", l.ago(time.Hour))
			_, _, err := l.Create(l.Context(), DraftConfig{ID: "b"})
			l.fails("of a newer one", err, ErrBusy)
			l.set("lc:{b}", "v", 1)
			l.rowAndKind()
			l.create(DraftConfig{ID: "b"})
			l.equal("keys", []string{"lc:batches", "lc:open", "lc:{b}"}, l.keys())
			l.equal("format", fmt.Sprint(plainFormat), l.hash("lc:{b}")["v"])
			for terms, format := range map[Terms]int{
				{NotBefore: time.Now()}: termsFormat, {PauseAbove: "5%"}: termsFormat,
				{PauseAbove: "off"}: plainFormat, {Verify: "all", Priority: PriorityHigh}: plainFormat,
			} {
				if got := (DraftConfig{Terms: terms}).format(); got != format {
					l.Errorf("%+v has the format %d", terms, got)
				}
			}
		}},
	})
}
