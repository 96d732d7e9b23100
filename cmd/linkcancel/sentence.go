package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"unicode"
	"unicode/utf8"
)

// sentences is a slog.Handler for commands that a person runs: it writes sentences instead of keys
// and values.
type sentences struct {
	to    io.Writer
	level slog.Level
	attrs []slog.Attr
}

func (h sentences) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

func (h sentences) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.attrs = append(h.attrs[:len(h.attrs):len(h.attrs)], attrs...)
	return h
}

func (h sentences) WithGroup(string) slog.Handler { return h } // nobody uses groups

func (h sentences) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	var more []string
	add := func(a slog.Attr) bool {
		if a.Key == "warning" { // it is a sentence
			text = a.Value.String()
		} else {
			more = append(more, strings.ReplaceAll(a.Key, "_", " ")+": "+a.Value.String())
		}
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	if len(more) > 0 {
		text += " (" + strings.Join(more, ", ") + ")"
	}
	switch {
	case r.Level >= slog.LevelError:
		text = "Error: " + text
	case r.Level >= slog.LevelWarn:
		text = "Warning: " + text
	default:
		first, size := utf8.DecodeRuneInString(text)
		text = string(unicode.ToUpper(first)) + text[size:]
	}
	_, err := fmt.Fprintln(h.to, strings.NewReplacer("\n", " ", "\r", " ").Replace(text))
	return err
}
