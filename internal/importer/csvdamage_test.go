package importer

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// A good file that is damaged on its way is refused, or all its links are right: no
// damage makes another id of one. The damage here is what programs, people and
// broken transfers do to files. A file that has lost all its whole ids is left out,
// since nothing in it shows what an id looks like.
func TestDamagedFiles(t *testing.T) {
	for seed := range uint64(1000) {
		rng := rand.New(rand.NewPCG(seed, 7))
		f := goodFile(rng)
		text := f.text
		var done []string
		for range 1 + rng.IntN(3) {
			d := damages[rng.IntN(len(damages))]
			text = d.do(rng, f, text)
			done = append(done, d.name)
		}
		whole := func(id string) bool { return strings.Contains(strings.ToLower(text), id) }
		if !slices.ContainsFunc(f.ids, whole) {
			continue
		}
		for _, skip := range []bool{false, true} {
			links, stats, err := readAll(CSVConfig{Paths: []string{"-"}, Stdin: strings.NewReader(text), SkipInvalid: skip})
			var refused *InputError
			if err != nil && !errors.As(err, &refused) {
				t.Fatalf("seed %d, %v: %v", seed, done, err)
			}
			if err == nil && (stats.Rows != stats.Links+stats.Duplicates+stats.Invalid || stats.Links != int64(len(links))) {
				t.Fatalf("seed %d, %v: %d links, %+v", seed, done, len(links), stats)
			}
			for _, link := range links {
				if err == nil && !slices.Contains(f.ids, link) {
					t.Fatalf("seed %d, %v, skip %v: %q is no id of\n%s", seed, done, skip, link, text)
				}
			}
		}
	}
}

// csvFile is a file as a program wrote it.
type csvFile struct {
	text   string
	header string // with its line end; may be empty
	comma  string
	end    string // of a line
	ids    []string
}

func goodFile(rng *rand.Rand) csvFile {
	f := csvFile{comma: []string{",", ";", "\t"}[rng.IntN(3)], end: []string{"\n", "\r\n"}[rng.IntN(2)]}
	before, behind := rng.IntN(3), rng.IntN(3)
	cells := func(id string) string {
		row := slices.Repeat([]string{"Bob"}, before)
		row = append(row, id)
		return strings.Join(append(row, slices.Repeat([]string{"n"}, behind)...), f.comma) + f.end
	}
	if rng.IntN(4) > 0 {
		f.header = cells([]string{"id", "url", "Ссылка"}[rng.IntN(3)])
	}
	var b strings.Builder
	b.WriteString(f.header)
	for range 2 + rng.IntN(60) {
		id := fmt.Sprintf("pl_%016x%016x", rng.Uint64(), rng.Uint64())
		f.ids = append(f.ids, id)
		switch rng.IntN(12) {
		case 0:
			id = "https://checkout.plexypay.com/" + id
		case 1:
			id = `"` + id + `"`
		}
		b.WriteString(cells(id))
	}
	f.text = b.String()
	return f
}

type damage struct {
	name string
	do   func(rng *rand.Rand, f csvFile, text string) string
}

// in puts something at a random place of a text.
func in(rng *rand.Rand, text, what string) string {
	at := rng.IntN(len(text) + 1)
	return text[:at] + what + text[at:]
}

// onLine changes a random line.
func onLine(rng *rand.Rand, text string, change func(line string) string) string {
	lines := strings.SplitAfter(text, "\n")
	i := rng.IntN(len(lines))
	lines[i] = change(lines[i])
	return strings.Join(lines, "")
}

var damages = []damage{
	{"cut", func(rng *rand.Rand, _ csvFile, text string) string { return text[:rng.IntN(len(text)+1)] }},
	{"cut at the front", func(rng *rand.Rand, _ csvFile, text string) string { return text[rng.IntN(len(text)+1):] }},
	// A longer hole could leave the front of one id and the end of another: 32 digits.
	{"a hole", func(rng *rand.Rand, _ csvFile, text string) string {
		from := rng.IntN(len(text) + 1)
		return text[:from] + text[min(len(text), from+1+rng.IntN(20)):]
	}},
	{"an odd character", func(rng *rand.Rand, _ csvFile, text string) string {
		return in(rng, text, []string{"\"", "'", "\x00", "\u200b", "\ufeff", "é", "г", ".", "/", "g", " ", "\xff", "\ufe0f", "=", "<", "_", "-", "Z"}[rng.IntN(18)])
	}},
	{"a delimiter", func(rng *rand.Rand, f csvFile, text string) string {
		return in(rng, text, []string{",", ";", "\t", "|", f.comma}[rng.IntN(5)])
	}},
	{"a line end", func(rng *rand.Rand, f csvFile, text string) string { return in(rng, text, f.end) }},
	{"a line end lost", func(rng *rand.Rand, _ csvFile, text string) string {
		return onLine(rng, text, func(line string) string { return strings.TrimRight(line, "\r\n") })
	}},
	{"put together", func(_ *rand.Rand, f csvFile, text string) string { return text + f.text }},
	{"put together behind a mark", func(_ *rand.Rand, f csvFile, text string) string { return text + "\ufeff" + f.text }},
	{"header again", func(rng *rand.Rand, f csvFile, text string) string {
		return onLine(rng, text, func(line string) string { return line + f.header })
	}},
	{"a placeholder row", func(rng *rand.Rand, f csvFile, text string) string {
		word := []string{"NULL", "nan", "Total", "Итого", "id", "1.2E+15", "-", "", "pl_1", "ORD-7"}[rng.IntN(10)]
		return onLine(rng, text, func(line string) string { return line + word + f.end })
	}},
	{"rows of delimiters", func(_ *rand.Rand, f csvFile, text string) string {
		return text + strings.Repeat(f.comma+f.comma+f.end, 3)
	}},
	{"capitals", func(rng *rand.Rand, _ csvFile, text string) string { return onLine(rng, text, strings.ToUpper) }},
	{"all capitals", func(_ *rand.Rand, _ csvFile, text string) string { return strings.ToUpper(text) }},
	{"formulas", func(rng *rand.Rand, f csvFile, text string) string {
		return strings.ReplaceAll(text, f.ids[rng.IntN(len(f.ids))], `="`+f.ids[0]+`"`)
	}},
	{"a title", func(_ *rand.Rand, f csvFile, text string) string {
		return "Stale links" + f.comma + f.end + f.end + text
	}},
	{"a separator line", func(_ *rand.Rand, f csvFile, text string) string { return "sep=" + f.comma + f.end + text }},
	{"two ids in a cell", func(rng *rand.Rand, f csvFile, text string) string {
		id := f.ids[rng.IntN(len(f.ids))]
		return strings.ReplaceAll(text, id, id+[]string{"", " ", "/", "|", "&", "+"}[rng.IntN(6)]+f.ids[0])
	}},
	{"a URL with more", func(rng *rand.Rand, f csvFile, text string) string {
		id := f.ids[rng.IntN(len(f.ids))]
		return strings.ReplaceAll(text, id, "https://c.example/pay/"+[]string{"ok?id=" + id, id + "/success", "ok?ref=7", id + "?to=" + f.ids[0], id[:30]}[rng.IntN(5)])
	}},
	{"another delimiter in a row", func(rng *rand.Rand, f csvFile, text string) string {
		return onLine(rng, text, func(line string) string { return strings.ReplaceAll(line, f.comma, "|") })
	}},
	{"cells lost at the end", func(rng *rand.Rand, f csvFile, text string) string {
		return onLine(rng, text, func(line string) string {
			cells := strings.Split(strings.TrimRight(line, "\r\n"), f.comma)
			return strings.Join(cells[:1+rng.IntN(len(cells))], f.comma) + f.end
		})
	}},
	{"UTF-8 read as Latin-1", func(_ *rand.Rand, _ csvFile, text string) string {
		var b bytes.Buffer
		for i := range len(text) {
			b.WriteRune(rune(text[i]))
		}
		return b.String()
	}},
}
