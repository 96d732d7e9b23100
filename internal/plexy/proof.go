package plexy

import (
	"crypto/sha256"
	"fmt"
	"html"
	"strconv"
	"strings"
)

// Limits for the parts of a Kind in bytes. With the rest they stay within maxKind.
const (
	maxKind       = 64
	maxKindMedia  = 28
	maxKindServer = 22
)

// maxSeen is how many characters of an answer Saw shows.
const maxSeen = 60

// codeFits reports whether the API itself would send code with an error status.
//
// The vendor documents 1 and 2 for its own failures, 3 for 400, 4 for 404 and 5 for 422.
// For other statuses any short code is possible. Codes of gateways differ, or repeat the
// status. The vendor documents no body for a 3xx, and a 2xx is not an error.
func codeFits(status int, code string) bool {
	n, err := strconv.Atoi(code)
	if err != nil || strconv.Itoa(n) != code {
		return false
	}
	switch {
	case status < 400:
		return false
	case status == 400:
		return n == 3
	case status == 404:
		return n == 4
	case status == 422:
		return n == 5
	case status >= 500:
		return n == 1 || n == 2
	}
	return 1 <= n && n <= 99 && n != 4 && n != 5
}

// head returns the start of the body, up to the limit for errors, and whether that is all.
func (a *answer) head() (body []byte, whole bool) {
	if len(a.body) > maxBody {
		return a.body[:maxBody], false
	}
	return a.body, a.whole()
}

// unproven adds the description of an unproven answer to e. why is the problem of a 2xx, or nil.
func (a *answer) unproven(e *Error, why error) {
	e.Kind = a.kind()
	e.saw = a.saw(why)
}

// kind returns Error.Kind of an unproven answer, with "-" for missing parts.
func (a *answer) kind() string {
	body, _ := a.head()
	hash := sha256.Sum256(body)
	return fmt.Sprintf("%d %s %s %x", a.status, a.word(a.media(), maxKindMedia), a.word(a.header.Get("Server"), maxKindServer), hash[:4])
}

// media returns the media type without parameters, or "".
func (a *answer) media() string {
	media, _, _ := strings.Cut(a.header.Get("Content-Type"), ";")
	return strings.TrimSpace(media)
}

// word returns text as one word of printable ASCII, or "-".
func (a *answer) word(text string, most int) string {
	// Before the key is removed: a replacement could otherwise create a key.
	text = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '_'
		}
		return r
	}, text)
	if text = cut(a.scrub.line(text), most); text == "" {
		return "-"
	}
	return text
}

// saw returns Error.Saw of an unproven answer.
func (a *answer) saw(why error) string {
	if len(a.body) == 0 && a.bodyErr == nil {
		return fmt.Sprintf("%d, empty", a.status)
	}
	parts := []string{strconv.Itoa(a.status)}
	if media := cut(a.scrub.line(a.media()), maxWord); media != "" {
		parts = append(parts, media)
	}
	body, whole := a.head()
	switch text := a.seen(); {
	case why != nil && decodeObject(body) != nil:
		// It looks like an answer of the API, so the problem says more than its beginning.
		parts = append(parts, shorten(why.Error(), maxSeen))
	case text != "":
		parts = append(parts, "“"+text+"”")
	case !whole:
		parts = append(parts, "cut off")
	default:
		parts = append(parts, "no text")
	}
	return strings.Join(parts, ", ")
}

// seen returns the part of the body that Saw shows.
func (a *answer) seen() string {
	body, whole := a.head()
	// The key may contain angle brackets, and parts of it would remain if they were taken
	// for a tag. Unescaped text is scrubbed again later.
	text := strings.TrimSpace(a.scrub.key.Hide(string(body)))
	if strings.HasPrefix(text, "<") || strings.Contains(strings.ToLower(a.media()), "html") {
		title, rest := pageText(text)
		if title != "" {
			return excerpt(title, true, maxSeen, a.scrub)
		}
		text = rest
	}
	return excerpt(text, whole, maxSeen, a.scrub)
}

// pageText returns the title of an HTML page, or its text. The page may be malformed.
func pageText(page string) (title, text string) {
	var b strings.Builder
	for {
		before, tag, found := strings.Cut(page, "<")
		b.WriteString(before)
		if !found {
			return "", html.UnescapeString(b.String())
		}
		b.WriteByte(' ') // keep words of two cells apart
		if comment, ok := strings.CutPrefix(tag, "!--"); ok {
			_, page, _ = strings.Cut(comment, "-->")
			continue
		}
		var content string
		content, page = pageElement(tag)
		if content = strings.TrimSpace(html.UnescapeString(content)); content != "" {
			return content, ""
		}
	}
}

// pageElement skips a tag and the content of a script or style. It returns that of a title.
func pageElement(tag string) (title, rest string) {
	name := strings.ToLower(tag[:min(len(tag), len("script"))])
	_, rest, _ = strings.Cut(tag, ">")
	switch {
	case strings.HasPrefix(name, "title"):
		if content, after, closed := strings.Cut(rest, "<"); closed {
			_, after, _ = strings.Cut(after, ">")
			return content, after
		}
	case name == "script":
		rest = behindElement(rest, "</script")
	case strings.HasPrefix(name, "style"):
		rest = behindElement(rest, "</style")
	}
	return "", rest
}

// behindElement returns the text after the closing tag end in any case, or "".
func behindElement(page, end string) string {
	for {
		at := strings.IndexByte(page, '<')
		if at < 0 {
			return ""
		}
		page = page[at:]
		if len(page) >= len(end) && strings.EqualFold(page[:len(end)], end) {
			_, page, _ = strings.Cut(page, ">")
			return page
		}
		page = page[1:]
	}
}
