// Package clean makes texts that come from outside fit to be shown: without
// secrets, and without characters that a terminal obeys or that cannot be seen.
// It imports nothing of ours.
package clean

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Line returns text with every character escaped that would not be seen as
// itself, line ends and tabs too: controls (escape sequences begin with one),
// bytes that are no UTF-8, and format characters such as U+202E, which turns
// round what follows it. It fits for a name inside a message.
func Line(text string) string { return escape(text, "") }

// Text is Line for a message of several lines: line ends and tabs stay.
func Text(text string) string { return escape(text, "\n\t") }

func escape(text, keep string) string {
	if !strings.ContainsFunc(text, hidden) && utf8.ValidString(text) {
		return text
	}
	var b strings.Builder
	for i, r := range text {
		_, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case !hidden(r) || strings.ContainsRune(keep, r):
			b.WriteRune(r)
		default:
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
	}
	return b.String()
}

// hidden reports whether a character cannot be seen as itself. White space can.
func hidden(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}

// JSON returns a JSON text with those of its characters escaped, as JSON does
// it, that Line would escape and that encoding/json leaves as they are. White
// space between values stays.
func JSON(text []byte) []byte {
	ascii := true
	for _, c := range text {
		ascii = ascii && c < 0x7f
	}
	if ascii {
		return text
	}
	out := make([]byte, 0, len(text)+16)
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		switch {
		case r < ' ' || !hidden(r):
			out = append(out, text[i:i+size]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		i += size
	}
	return out
}

// Writer passes on what is written as Text returns it. A character may come in
// pieces. The number of bytes that it returns is that of its input.
type Writer struct {
	To   io.Writer
	part []byte // the beginning of a character
}

// Write is part of io.Writer.
func (w *Writer) Write(p []byte) (int, error) {
	text := append(w.part, p...)
	end := len(text)
	for i := 1; i < utf8.UTFMax && i <= end; i++ {
		if utf8.RuneStart(text[end-i]) {
			if !utf8.FullRune(text[end-i:]) {
				end -= i
			}
			break
		}
	}
	w.part = append([]byte(nil), text[end:]...)
	if _, err := io.WriteString(w.To, Text(string(text[:end]))); err != nil {
		return 0, err
	}
	return len(p), nil
}
