package plexy

import (
	"errors"
	"fmt"
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
		case Invisible(r):
			// The API would not know the link, while the link that was meant stays
			// payable.
			return badID(fmt.Sprintf("the id contains an invisible character (%U)", r))
		case strings.ContainsRune(pathBreaking, r):
			return badID(fmt.Sprintf("the id contains %q", r))
		}
	}
	return nil
}

// onlyDots reports whether a server may see nothing but dots in an id: some cut a
// path element at its first semicolon.
func onlyDots(id string) bool {
	element, _, _ := strings.Cut(id, ";")
	return strings.Trim(element, dots) == ""
}

// Invisible reports whether a character has no shape of its own, such as a
// zero-width space or a variation selector out of a web page.
func Invisible(r rune) bool {
	return unicode.In(r, unicode.Cf, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) || r == brailleBlank
}

const brailleBlank = 0x2800

// Documented reports whether an id has the form that the API documents, pl_ and 32
// lower-case hex digits. An id of another form may be good all the same: the
// vendor's Cancel page calls the id in the path the external id.
func Documented(id string) bool {
	if len(id) != 35 || id[:3] != "pl_" {
		return false
	}
	for i := 3; i < len(id); i++ {
		if c := id[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
