//go:build pictures

package browser

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"linkcancel/internal/testutil"
)

// TestPictures draws the pictures of the documents.
func TestPictures(t *testing.T) {
	s := newSite(t)
	s.fill()
	b := newTab(t)
	for _, p := range []struct {
		name, path, scheme string
		height             int64
	}{{"batches", "/", "light", 460}, {"batch", "/batches/march", "light", 1000}, {"dark", "/batches/april", "dark", 1000}} {
		b.do(chromedp.EmulateViewport(1200, p.height),
			command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: p.scheme}}}),
			chromedp.Navigate(s.address(p.path)), chromedp.WaitVisible(chromedp.CSS("main")))
		picture := get(b, chromedp.CaptureScreenshot())
		testutil.Must(t, os.WriteFile(filepath.Join("..", "..", "docs", "page-"+p.name+".png"), picture, 0o644))
	}
}
