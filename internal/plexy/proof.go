package plexy

import (
	"crypto/sha256"
	"fmt"
	"html"
	"strconv"
	"strings"
)

// Longest parts of a Kind, in bytes. With the status, the hash and the spaces
// they are within maxKind.
const (
	maxKind       = 64
	maxKindMedia  = 28
	maxKindServer = 22
)

// maxSeen is how many characters of an answer a person is shown.
const maxSeen = 60

// codeFits reports whether the API itself would send code with an error status.
//
// The vendor documents 1 and 2 for its own failures, 3 for 400, 4 for 404 and 5
// for 422. For statuses that it does not document any other short code is
// possible. A gateway's code is its own, or repeats the status. The vendor
// documents no body for a 3xx, and a 2xx is no error.
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

// head is the beginning of the body, as far as an error is read, and whether it
// is all of it.
func (a *answer) head() (body []byte, whole bool) {
	if len(a.body) > maxBody {
		return a.body[:maxBody], false
	}
	return a.body, a.whole()
}

// unproven describes in e an answer that the API may not have given. Why, if it
// is not nil, tells what is wrong with a 2xx.
func (a *answer) unproven(e *Error, why error) {
	e.Kind = a.kind()
	e.saw = a.saw(why)
}

// kind is Error.Kind of an unproven answer. A part that is missing is a "-".
func (a *answer) kind() string {
	body, _ := a.head()
	hash := sha256.Sum256(body)
	return fmt.Sprintf("%d %s %s %x", a.status, a.word(a.media(), maxKindMedia), a.word(a.header.Get("Server"), maxKindServer), hash[:4])
}

// media is the media type without its parameters, or "".
func (a *answer) media() string {
	media, _, _ := strings.Cut(a.header.Get("Content-Type"), ";")
	return strings.TrimSpace(media)
}

// word returns text as one word of printable ASCII, or "-".
func (a *answer) word(text string, most int) string {
	// Before the key is taken out: a replaced character could put one together.
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

// saw is Error.Saw of an unproven answer.
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
		// It looks like the API's: what is wrong says more than how it begins.
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

// seen is what a person is shown of the body.
func (a *answer) seen() string {
	body, whole := a.head()
	// The key may have angle brackets: if they were taken for a tag, parts of it
	// would stay. What is unescaped later is looked through again.
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

// pageText returns the title of a page of HTML and, if it has none, its text
// without tags, comments, scripts and styles. The texts are as wild as the page.
func pageText(page string) (title, text string) {
	var b strings.Builder
	for {
		before, tag, found := strings.Cut(page, "<")
		b.WriteString(before)
		if !found {
			return "", html.UnescapeString(b.String())
		}
		b.WriteByte(' ') // words in two cells are two words
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

// pageElement skips a tag, which begins behind its bracket, and with a script or
// a style its content. Of a title it returns the content.
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

// behindElement returns what follows the closing tag end, in upper or lower
// case; "" if there is none.
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
