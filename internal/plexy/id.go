package plexy

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrBadID is wrapped by every error about an unusable id.
var ErrBadID = errors.New("bad payment link id")

// badID is an error text that matches ErrBadID.
type badID string

func (e badID) Error() string        { return string(e) }
func (e badID) Is(target error) bool { return target == ErrBadID }

const maxID = 128 // bytes

// Characters that Unicode normalization (NFKC) turns into one of the others.
const (
	pathBreaking = `/\?#%` + "／＼﹨？﹖︖⁇⁈⁉＃﹟％﹪℀℁℅℆"
	dots         = "." + "．﹒․‥…︙︰"
)

// CheckID returns why an id must not be sent. The API does not define ids, so everything is allowed
// that addresses exactly one payment link. For example, url.PathEscape keeps "." and "..", and an
// empty id addresses the whole collection. The error wraps ErrBadID and never repeats the id.
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
		case r == utf8.RuneError:
			return badID("the id contains U+FFFD: a program put it in the place of a character that it could not read")
		case Invisible(r):
			// The API would not find the link, and the real one would stay payable.
			return badID(fmt.Sprintf("the id contains an invisible character (%U)", r))
		case strings.ContainsRune(pathBreaking, r):
			return badID(fmt.Sprintf("the id contains %q", r))
		}
	}
	return nil
}

// onlyDots reports whether a server may see only dots in an id. Some cut it at a semicolon.
func onlyDots(id string) bool {
	element, _, _ := strings.Cut(id, ";")
	return strings.Trim(element, dots) == ""
}

// Invisible reports whether a character cannot be seen, such as a zero-width space.
func Invisible(r rune) bool {
	return unicode.In(r, unicode.Cf, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) || r == brailleBlank
}

const brailleBlank = 0x2800

// Documented reports whether an id is pl_ and 32 lower-case hex digits, as the API documents. Other
// ids may be valid: the vendor's Cancel page calls the id in the path the external id.
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
