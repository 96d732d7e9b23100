package ledger

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"linkcancel/internal/plexy"
	"linkcancel/internal/redistest"
)

// documented are n ids of the documented form.
func documented(seed uint64, n int) []string {
	random := rand.New(rand.NewPCG(seed, 1))
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("pl_%016x%016x", random.Uint64(), random.Uint64())
	}
	return ids
}

const (
	zeros = "pl_00000000000000000000000000000000"
	ones  = "pl_ffffffffffffffffffffffffffffffff"
	// Its bytes are the newline and the mark, again and again.
	marks = "pl_0a010a010a010a010a010a010a010a01"
)

// otherForms are ids that are nearly of the documented form.
var otherForms = []string{
	"pl_A0000000000000000000000000000000", "pl_0000000000000000000000000000000F", "pl_abcdefABCDEFabcdefABCDEFabcdefAB",
	zeros[:34], zeros + "0", "pl_", "PL_" + zeros[3:], "pk_" + zeros[3:], "p_" + zeros[2:], "pl-" + zeros[3:], "lnk" + zeros[2:],
	"pl_g0000000000000000000000000000000", "pl_0000000000000000000000000000000`", "pl_0000000000000000 000000000000000",
	"pl_000000000000000000000000000000\u00e9", "pl_000000000000000000000000000000/0", "pl_:0000000000000000000000000000000", "x",
}

func TestChunk(t *testing.T) {
	t.Parallel()
	full := documented(1, ChunkLinks)
	for name, tt := range map[string]struct {
		links  []string
		size   int // -1: as the ids with newlines between them
		format int
	}{
		"one":            {documented(2, 1), 17, packedFormat},
		"edges":          {[]string{zeros, ones, marks}, 49, packedFormat},
		"full":           {full, 16_001, packedFormat},
		"none":           {[]string{""}, -1, plainFormat},
		"the last other": {append(full[:999:999], "pl_1"), -1, plainFormat},
		"the first":      {append([]string{otherForms[0]}, full[:999]...), -1, plainFormat},
		"others":         {links(0, ChunkLinks), -1, plainFormat},
	} {
		chunk, format := encodeChunk(tt.links)
		got, err := decodeChunk(chunk)
		if diff := cmp.Diff(tt.links, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
		if tt.size < 0 {
			tt.size = len(strings.Join(tt.links, "\n"))
		}
		if len(chunk) != tt.size || format != tt.format {
			t.Errorf("%s: %d bytes in format %d, want %d in %d", name, len(chunk), format, tt.size, tt.format)
		}
	}
	for _, id := range otherForms {
		if packed, ok := packID(nil, id); ok || len(packed) > 0 || plexy.Documented(id) {
			t.Errorf("%q is packed: % x", id, packed)
		}
	}
}

// A chunk of a wrong length is an error.
func TestDamagedChunk(t *testing.T) {
	t.Parallel()
	whole, _ := encodeChunk(documented(1, 3))
	for _, chunk := range []string{packedMark, whole[:len(whole)-1], whole + "x", whole + "\n" + zeros} {
		if ids, err := decodeChunk(chunk); err == nil {
			t.Errorf("%q has the ids %q", chunk, ids)
		}
	}
}

// FuzzChunk: whatever a chunk holds, it is read as it was written.
func FuzzChunk(f *testing.F) {
	for _, id := range append(otherForms, zeros, ones, marks, "\x01", "\x010123456789abcdef") {
		f.Add(id, id)
		f.Add(zeros, id)
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		_, packed := packID(nil, first)
		if packed != plexy.Documented(first) {
			t.Errorf("%q is packed: %v", first, packed)
		}
		if plexy.CheckID(first) != nil || plexy.CheckID(second) != nil {
			return
		}
		links := []string{first, second, first}
		chunk, format := encodeChunk(links)
		got, err := decodeChunk(chunk)
		if err != nil || !slices.Equal(got, links) {
			t.Errorf("%q is read as %q, %v", links, got, err)
		}
		if all := packed && plexy.Documented(second); all != (format == packedFormat) || all != strings.HasPrefix(chunk, packedMark) {
			t.Errorf("%q: %q in format %d", links, chunk, format)
		}
	})
}

func TestPackedBatch(t *testing.T) {
	hold(t, []rule{
		{"a batch may have chunks of both kinds", func(l *bench) {
			d := l.create(DraftConfig{ID: "b"})
			all := slices.Concat(documented(1, ChunkLinks), links(0, ChunkLinks), documented(2, ChunkLinks-1), []string{"pl_other"}, documented(3, 7))
			l.must(d.Write(l.Context(), slices.Collect(slices.Chunk(all, ChunkLinks))...))
			l.must(d.Seal(l.Context(), "digest", 0, 0))
			b := l.get("b")
			var got []string
			for lr, err := range l.Walk(l.Context(), b) {
				l.must(err)
				got = append(got, lr.Link)
			}
			l.equal("links", all, got)
			for n, size := range []int{16_001, len(strings.Join(all[1000:2000], "\n")), len(strings.Join(all[2000:3000], "\n")), 1 + 7*16} {
				l.equal("bytes", int64(size), l.rdb.StrLen(l.Context(), keyChunk("b", n)).Val())
			}
			asked := []string{all[0], all[999], all[1000], all[1999], all[2500], all[2999], all[3000], all[3006], zeros, "pl_", "x", strings.ToUpper(all[0])}
			found, err := l.Find(l.Context(), b, asked)
			l.must(err)
			l.equal("found", map[string]int{
				all[0]: 0, all[999]: 999, all[1000]: 1000, all[1999]: 1999, all[2500]: 2500, all[2999]: 2999, all[3000]: 3000, all[3006]: 3006,
			}, found)
		}},
		{"an id is not found across two others", func(l *bench) {
			d := l.create(DraftConfig{ID: "b"})
			ids := []string{ones, "pl_ffffffffffffffffffffffffffff0000", "pl_00000000000000000000000000000a01", marks, zeros}
			l.must(d.Write(l.Context(), ids))
			l.must(d.Seal(l.Context(), "digest", 0, 0))
			across := "pl_" + ids[1][7:] + ids[2][3:7] // the bytes of the second from its third on, and the next two
			found, err := l.Find(l.Context(), l.get("b"), append([]string{across, "pl_" + marks[5:] + "00"}, ids...))
			l.must(err)
			l.equal("found", map[string]int{ids[0]: 0, ids[1]: 1, ids[2]: 2, ids[3]: 3, ids[4]: 4}, found)
		}},
		{"a script reads the id of a link", func(l *bench) {
			script := luaExample(l.T)
			d := l.create(DraftConfig{ID: "b"})
			packed, others := append(documented(1, 7), zeros, ones, marks), append(documented(1, 7), "pl_é", "x")
			l.must(d.Write(l.Context(), append(documented(9, ChunkLinks-len(packed)), packed...)))
			l.must(d.Write(l.Context(), others))
			for i, id := range packed {
				got, err := script.Run(l.Context(), l.rdb, []string{"lc:{b}:m:0"}, ChunkLinks-len(packed)+i).Text()
				l.must(err)
				l.equal("id", id, got)
			}
			for i, id := range others {
				got, err := script.Run(l.Context(), l.rdb, []string{"lc:{b}:m:1"}, i).Text()
				l.must(err)
				l.equal("id", id, got)
			}
		}},
		{"a damaged chunk has no links", func(l *bench) {
			l.batch("b", 3, false)
			l.must(l.rdb.Set(l.Context(), "lc:{b}:m:0", "\x01pl_0\npl_1\npl_2", 0).Err())
			if ids, err := l.Links(l.Context(), "b", 0); err == nil {
				l.Errorf("%q", ids)
			}
		}},
	})
}

// luaExample is the script of deploy/README.md that reads an id.
func luaExample(t *testing.T) *redis.Script {
	t.Helper()
	text, err := os.ReadFile("../../deploy/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n```lua\n")
	script, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatal("deploy/README.md has no script in Lua")
	}
	return redis.NewScript(script)
}

// lastPlain is the newest format of the releases that cannot read a packed chunk.
const lastPlain = 3

// An earlier release must never read a packed chunk, nor one of today wait for an older batch.
func TestPackedFormat(t *testing.T) {
	hold(t, []rule{
		{"the first packed chunk makes the batch one that earlier releases leave alone", func(l *bench) {
			d := l.create(DraftConfig{ID: "b"})
			l.equal("before", "2", l.hash("lc:{b}")["v"])
			l.write(d, 3000)
			l.equal("with other chunks", "2", l.hash("lc:{b}")["v"])
			l.must(d.Write(l.Context(), documented(1, 1000)))
			l.equal("with a packed one", "4", l.hash("lc:{b}")["v"])
			l.must(d.Write(l.Context(), links(0, 5)))
			l.must(d.Seal(l.Context(), "digest", 0, 0))
			l.equal("sealed", "4", l.hash("lc:{b}")["v"])
			_, err := l.older(0, Cancelled, nil)
			l.fails("the outcome of an older release", err, ErrNewer)
			c := recordScript.Run(l.Context(), l.rdb,
				[]string{"lc:{b}", "lc:{b}:r:0", "lc:{b}:e", "lc:{b}:s", "lc:{b}:k", "lc:{b}:c", "lc:{b}:h"},
				0, ChunkLinks, MaxErrors, maxLinkStatus, "\x00\x00\x01\x01\x00\x00", 0, lastPlain)
			l.fails("the outcome of the last one", scriptError(c.Err()), ErrNewer)
			l.must(l.Start(l.Context(), &Batch{ID: "b"}, 1, 50, "w1"))
			l.equal("of this one", Running, l.commit(outcomes(Cancelled, 0, 1)...).State)
		}},
		{"a batch without packed chunks keeps its format", func(l *bench) {
			for format, cfg := range map[string]DraftConfig{"2": {ID: "a"}, "3": {ID: "v", Source: SourceVerify}} {
				d := l.create(cfg)
				l.write(d, 1500)
				l.must(d.Seal(l.Context(), "digest", 0, 0))
				l.equal("format", format, l.hash(keyBatch(cfg.ID))["v"])
			}
		}},
		{"a packed verification is one", func(l *bench) {
			d := l.create(DraftConfig{ID: "v", Source: SourceVerify})
			l.must(d.Write(l.Context(), documented(1, 10)))
			l.must(d.Seal(l.Context(), "digest", 0, 0))
			l.equal("format", "4", l.hash("lc:{v}")["v"])
			if !l.get("v").Verifies() || !l.slice("v", 10).Verifies {
				l.Errorf("%+v", l.get("v"))
			}
		}},
		{"a chunk that is not written raises nothing", func(l *bench) {
			d := l.create(DraftConfig{ID: "b"})
			l.write(d, 1000)
			d.chunks = 0
			l.must(d.Write(l.Context(), documented(1, 1000)))
			d.token = "other"
			l.fails("of another importer", d.Write(l.Context(), documented(1, 1000)), ErrTaken)
			l.equal("format", "2", l.hash("lc:{b}")["v"])
		}},
		{"a dead importer of packed chunks is taken over, but not by an earlier release", func(l *bench) {
			dead := l.create(DraftConfig{ID: "b"})
			l.must(dead.Write(l.Context(), documented(1, 1000), documented(2, 1000)))
			l.set("lc:{b}", "beat", l.ago(time.Hour))
			reply, err := createScript.Run(l.Context(), l.rdb, []string{"lc:{b}"}, "token", 1000, 0, "on", lastPlain, "v", plainFormat).Text()
			l.must(err)
			l.equal("an earlier one", "busy", reply)
			d := l.create(DraftConfig{ID: "b"})
			l.equal("keys", []string{"lc:batches", "lc:open", "lc:{b}"}, l.keys())
			l.fails("a late chunk of the dead one", dead.Write(l.Context(), documented(3, 10)), ErrTaken)
			l.write(d, 10)
			l.must(d.Seal(l.Context(), "digest", 0, 0))
			l.equal("format", "2", l.hash("lc:{b}")["v"])
		}},
		{"an earlier release that takes over an empty draft gets no packed chunk", func(l *bench) {
			d := l.create(DraftConfig{ID: "b"})
			l.set("lc:{b}", "beat", l.ago(time.Hour))
			reply, err := createScript.Run(l.Context(), l.rdb, []string{"lc:{b}"}, "token", 1000, 0, "on", lastPlain, "v", plainFormat).Text()
			l.must(err)
			l.equal("an earlier one", "created", reply)
			l.fails("a packed chunk", d.Write(l.Context(), documented(1, 10)), ErrTaken)
			l.equal("keys", []string{"lc:batches", "lc:open", "lc:{b}"}, l.keys())
			l.equal("format", "2", l.hash("lc:{b}")["v"])
		}},
	})
}

// A waiting link of the documented form takes 16 bytes and a little, another one no more than its id.
func TestChunkMemory(t *testing.T) {
	t.Parallel()
	if !redistest.Have(t) {
		t.Skip("no redis-server")
	}
	const total = 100 * ChunkLinks
	others := documented(1, total)
	for i := range others {
		others[i] = strings.ToUpper(others[i])
	}
	for name, tt := range map[string]struct {
		links []string
		most  float64
	}{"documented": {documented(1, total), 17}, "other": {others, 41.5}} {
		t.Run(name, func(t *testing.T) {
			b := redistest.Open(t, redistest.Start(t))
			l := New(b.Client())
			d, _, err := l.Create(t.Context(), DraftConfig{ID: "b"})
			if err == nil {
				err = d.Write(t.Context(), slices.Collect(slices.Chunk(tt.links, ChunkLinks))...)
			}
			if err != nil {
				t.Fatal(err)
			}
			var bytes int64
			for n := range total / ChunkLinks {
				bytes += b.Client().MemoryUsage(t.Context(), keyChunk("b", n), 0).Val()
			}
			if per := float64(bytes) / total; per < 16 || per > tt.most {
				t.Errorf("%.1f bytes a link, want at most %.1f", per, tt.most)
			}
		})
	}
}

// Reading a chunk makes a few objects, not some for each link.
func TestChunkAllocations(t *testing.T) {
	all := documented(1, ChunkLinks)
	chunk, _ := encodeChunk(all)
	if n := testing.AllocsPerRun(10, func() { runtime.KeepAlive(must(decodeChunk(chunk))) }); n > 2 {
		t.Errorf("%v objects to read a chunk", n)
	}
	if n := testing.AllocsPerRun(10, func() { encodeChunk(all) }); n > 2 {
		t.Errorf("%v objects to write a chunk", n)
	}
}

func must(ids []string, err error) []string {
	if err != nil {
		panic(err)
	}
	return ids
}

// BenchmarkChunk is the codec of a full chunk: of packed ids, and of others.
func BenchmarkChunk(b *testing.B) {
	for name, all := range map[string][]string{"packed": documented(1, ChunkLinks), "other": append(documented(1, ChunkLinks-1), "pl_1")} {
		chunk, _ := encodeChunk(all)
		b.Run("encode_"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				encodeChunk(all)
			}
		})
		b.Run("decode_"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = decodeChunk(chunk)
			}
		})
	}
}
