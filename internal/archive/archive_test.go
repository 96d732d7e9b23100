package archive

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"linkcancel/internal/broker"
	"linkcancel/internal/history"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/report"
	"linkcancel/internal/testutil"
)

// finished makes a batch that has ended.
func finished(t *testing.T, links int) (*ledger.Ledger, ledger.Batch) {
	t.Helper()
	b := broker.Embedded()
	t.Cleanup(func() { _ = b.Close() })
	l := ledger.New(b.Client())
	batch, err := importer.MakeBatch(t.Context(), l, &importer.Links{IDs: testutil.LinkIDs(links)}, importer.BatchConfig{
		ID: "march", Source: importer.SourceImport, Name: "stale.csv", By: history.By{Actor: "ann", Reason: "<ticket 7>"},
		Restore: func(_, n int) ([]ledger.Record, map[int]string, error) {
			records := make([]ledger.Record, n)
			for i := range records {
				records[i] = ledger.Record{Outcome: ledger.Cancelled, Attempts: 1, HTTPStatus: 204}
			}
			records[0] = ledger.Record{Outcome: ledger.Failed, Attempts: 12, HTTPStatus: 500}
			return records, map[int]string{0: "code 1"}, nil
		},
	})
	testutil.Must(t, err)
	return l, batch
}

func read(t *testing.T, path ...string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	testutil.Must(t, err)
	return text
}

func TestWrite(t *testing.T) {
	l, b := finished(t, 2500)
	dir := t.TempDir()
	testutil.Must(t, CheckFolder(dir))
	testutil.Must(t, os.Mkdir(filepath.Join(dir, partialPrefix+Name(b)+"-x"), 0o700))
	name, sum, err := Write(t.Context(), l, dir, b)
	testutil.Must(t, err)
	if want := "march-" + b.Created.Format("20060102T150405.000Z"); name != want {
		t.Errorf("%s, want %s", name, want)
	}
	zip, err := gzip.NewReader(bytes.NewReader(read(t, dir, name, "report.csv.gz")))
	testutil.Must(t, err)
	got, err := io.ReadAll(zip)
	testutil.Must(t, err)
	var want bytes.Buffer
	testutil.Must(t, report.Write(&want, report.Results(t.Context(), l, b), report.Options{}))
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("the report: %.200s", got)
	}
	if text := string(read(t, dir, name, "history.jsonl")); strings.Count(text, "\n") != 1 || !strings.Contains(text, `"reason":"<ticket 7>"`) {
		t.Error(text)
	}
	if text := string(read(t, dir, name, "batch.json")); !strings.Contains(text, `"failed":3,`) || !strings.Contains(text, `"still_payable":3,`) {
		t.Error(text)
	}
	found, err := Verify(dir)
	if diff := cmp.Diff([]Archive{{Name: name, Sum: sum}}, found); diff != "" || err != nil {
		t.Error(diff, err)
	}
	// Another attempt leaves the archive as it is, and nothing beside it.
	again, sumAgain, err := Write(t.Context(), l, dir, b)
	if again != name || sumAgain != sum || err != nil {
		t.Errorf("%s, %s, %v", again, sumAgain, err)
	}
	entries, err := os.ReadDir(dir)
	if len(entries) != 1 || err != nil {
		t.Errorf("%v, %v", entries, err)
	}
}

// sha256sum understands the sums.
func TestSums(t *testing.T) {
	l, b := finished(t, 3)
	dir := t.TempDir()
	name, _, err := Write(t.Context(), l, dir, b)
	testutil.Must(t, err)
	if _, err := exec.LookPath("sha256sum"); err != nil {
		t.Skip("needs sha256sum")
	}
	check := exec.Command("sha256sum", "-c", "--strict", sumsName)
	check.Dir = filepath.Join(dir, name)
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// What fails leaves nothing under the final name.
func TestWriteFails(t *testing.T) {
	l, b := finished(t, 2500)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Write(ctx, l, dir, b); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	entries, err := os.ReadDir(dir)
	if len(entries) != 0 || err != nil {
		t.Errorf("%v, %v", entries, err)
	}
	missing := filepath.Join(dir, "none")
	if _, _, err := Write(t.Context(), l, missing, b); err == nil {
		t.Error("there is no folder")
	}
	if err := CheckFolder(missing); !errors.Is(err, ErrFolder) {
		t.Error(err)
	}
	testutil.Must(t, os.WriteFile(missing, nil, 0o600))
	if err := CheckFolder(missing); !errors.Is(err, ErrFolder) {
		t.Error(err)
	}
	testutil.Must(t, os.Remove(missing))
	if _, err := Verify(dir); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
	// A damaged archive is not replaced.
	name, _, err := Write(t.Context(), l, dir, b)
	testutil.Must(t, err)
	testutil.Must(t, os.Remove(filepath.Join(dir, name, "batch.json")))
	if _, _, err := Write(t.Context(), l, dir, b); err == nil || !strings.Contains(err.Error(), "is damaged: batch.json: it is missing") {
		t.Error(err)
	}
}

// Each byte that changes is found, and each file that is missing or added.
func TestVerify(t *testing.T) {
	l, b := finished(t, 40)
	dir := t.TempDir()
	name, sum, err := Write(t.Context(), l, dir, b)
	testutil.Must(t, err)
	problems := func() []string {
		t.Helper()
		found, err := Verify(filepath.Join(dir, name))
		if err != nil || len(found) != 1 {
			t.Fatalf("%v, %v", found, err)
		}
		return found[0].Problems
	}
	for _, file := range append(names[:], sumsName) {
		path := filepath.Join(dir, name, file)
		text := read(t, path)
		testutil.Must(t, os.Chmod(path, 0o600))
		for i := range text {
			for _, bit := range []byte{1, 0x20} {
				changed := bytes.Clone(text)
				changed[i] ^= bit
				testutil.Must(t, os.WriteFile(path, changed, 0o600))
				if len(problems()) == 0 {
					t.Fatalf("byte %d of %s changed from %q to %q", i, file, text[i], changed[i])
				}
			}
		}
		for _, changed := range [][]byte{text[:len(text)-1], append(bytes.Clone(text), '\n'), nil} {
			testutil.Must(t, os.WriteFile(path, changed, 0o600))
			if len(problems()) == 0 {
				t.Errorf("%s with %d of %d bytes", file, len(changed), len(text))
			}
		}
		testutil.Must(t, os.WriteFile(path, text, 0o600))
	}
	if found := problems(); len(found) != 0 {
		t.Fatal(found)
	}
	testutil.Must(t, os.WriteFile(filepath.Join(dir, name, "more"), nil, 0o600))
	if diff := cmp.Diff([]string{"more: it does not belong to the archive"}, problems()); diff != "" {
		t.Error(diff)
	}
	testutil.Must(t, os.Remove(filepath.Join(dir, name, "more")))

	// Beside others: a folder without sums, a file, and an unfinished one.
	testutil.Must(t, os.Mkdir(filepath.Join(dir, "april"), 0o700))
	testutil.Must(t, os.WriteFile(filepath.Join(dir, "z"), nil, 0o600))
	testutil.Must(t, os.Mkdir(filepath.Join(dir, partialPrefix+"x"), 0o700))
	found, err := Verify(dir)
	want := []Archive{
		{Name: "april", Problems: []string{"SHA256SUMS: it is missing"}}, {Name: name, Sum: sum},
		{Name: "z", Problems: []string{"it is not a folder"}},
	}
	if diff := cmp.Diff(want, found); diff != "" || err != nil {
		t.Error(diff, err)
	}
}
