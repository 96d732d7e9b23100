package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"linkcancel/internal/clean"
)

// dryRunNote ends what a dry run prints.
const dryRunNote = "Dry run: nothing was sent or changed."

func printJSON(w io.Writer, v any) error {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	if err == nil {
		_, err = w.Write(clean.JSON(text.Bytes()))
	}
	if err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}
