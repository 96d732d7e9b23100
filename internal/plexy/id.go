package plexy

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrBadID is what every error about an unusable id wraps.
var ErrBadID = errors.New("bad payment link id")

// badID is a message about an id; it is an ErrBadID without its text.
type badID string

func (e badID) Error() string        { return string(e) }
func (e badID) Is(target error) bool { return target == ErrBadID }

const maxID = 128 // bytes

// Characters that servers which normalise Unicode (NFKC) turn into one of the
// others: a path of the file's making would be the last.
const (
	pathBreaking = `/\?#%` + "／＼﹨？﹖︖⁇⁈⁉＃﹟％﹪℀℁℅℆"
	dots         = "." + "．﹒․‥…︙︰"
)

// CheckID tells why an id must not be sent. The API does not define what an id
// is, so everything is allowed that can address one payment link and nothing
// else: url.PathEscape leaves "." and ".." as they are, and an empty id
// addresses the whole collection. The error wraps ErrBadID and never repeats
// the id.
func CheckID(id string) error {
	switch {
	case id == "":
		return badID("the id is empty")
	case id == "." || id == "..":
		return badID(fmt.Sprintf("the id is %q, which addresses another path", id))
	case len(id) > maxID:
		return badID(fmt.Sprintf("the id is longer than %d bytes (%d)", maxID, len(id)))
	case !utf8.ValidString(id):
		return badID("the id is not valid UTF-8")
	case onlyDots(id):
		return badID(`the id could be read as ".." or as nothing, which addresses another path`)
	}
	for _, r := range id {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9', 'A' <= r && r <= 'Z', r == '_', r == '-':
		case unicode.IsSpace(r):
			return badID(fmt.Sprintf("the id contains white space (%U)", r))
		case unicode.IsControl(r):
			return badID(fmt.Sprintf("the id contains a control character (%U)", r))
		case unicode.Is(unicode.Cf, r):
			// Such as a zero-width space out of a web page: the API would not
			// know the link, while the link that was meant stays payable.
			return badID(fmt.Sprintf("the id contains an invisible character (%U)", r))
		case strings.ContainsRune(pathBreaking, r):
			return badID(fmt.Sprintf("the id contains %q", r))
		}
	}
	return nil
}

// onlyDots tells whether a server may see nothing but dots in an id: some cut a
// path element at its first semicolon.
func onlyDots(id string) bool {
	element, _, _ := strings.Cut(id, ";")
	return strings.Trim(element, dots) == ""
}

// ParseID takes the id out of a file's cell: around it may stand white space,
// a byte-order mark and quotes, matching or not (the vendor's curl line has the
// id in quotes); and it may be the last path element of a checkout URL. The
// result has passed CheckID; the error wraps ErrBadID.
func ParseID(cell string) (string, error) {
	id := strings.TrimFunc(cell, surrounding)
	if isURL(id) {
		var err error
		if id, err = lastElement(id); err != nil {
			return "", err
		}
	}
	if err := CheckID(id); err != nil {
		return "", err
	}
	return id, nil
}

// surrounding tells whether r can stand around an id without belonging to it.
// The byte-order mark is one of the format characters.
func surrounding(r rune) bool {
	return unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) ||
		strings.ContainsRune("'\"`´‘’‚‛“”„‟«»‹›′″＇＂", r)
}

func isURL(text string) bool {
	scheme, _, found := strings.Cut(text, "://")
	return found && (strings.EqualFold(scheme, "https") || strings.EqualFold(scheme, "http"))
}

// lastElement returns the last path element of a URL that is not empty, with
// its escapes decoded. It splits before it decodes: an escaped slash belongs to
// an element, where CheckID refuses it.
func lastElement(rawURL string) (string, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "", badID("the URL cannot be read")
	}
	if u.Host == "" {
		return "", badID("the URL names no host")
	}
	path := strings.TrimRight(u.EscapedPath(), "/")
	last := path[strings.LastIndexByte(path, '/')+1:]
	if last == "" {
		return "", badID("the URL has no path, so no payment link id")
	}
	id, err := url.PathUnescape(last)
	if err != nil {
		return "", badID("the URL cannot be read")
	}
	return id, nil
}

// LooksLikeID tells whether a cell holds an id of the documented form, pl_ and
// 32 lower-case hex digits, alone or in a checkout URL. It helps to find the
// right column; an id of another form may be good all the same.
func LooksLikeID(cell string) bool {
	id, err := ParseID(cell)
	if err != nil {
		return false
	}
	digits, found := strings.CutPrefix(id, "pl_")
	return found && len(digits) == 32 && strings.Trim(digits, "0123456789abcdef") == ""
}
