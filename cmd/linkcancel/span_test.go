package main

import (
	"testing"
	"time"
)

func TestSpan(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"30d": 30 * day, "2w": 14 * day, "1w2d": 9 * day, "1d12h": 36 * time.Hour, "36h": 36 * time.Hour, "90m": 90 * time.Minute,
		"1h30m": 90 * time.Minute, " 5d ": 5 * day, "0": 0, "0d": 0, "1.5h": 90 * time.Minute, "15250w": 15250 * 7 * day,
	} {
		var s span
		if err := s.UnmarshalText([]byte(text)); err != nil || time.Duration(s) != want {
			t.Errorf("%q: %v, %v", text, time.Duration(s), err)
		}
	}
	for text, want := range map[string]string{
		"":                      `"": write a time such as 30d, 2w, 36h or 90m`,
		"30":                    `"30": the unit is missing: write a time such as 30d, 2w, 36h or 90m`,
		"d":                     `"d": write a time such as 30d, 2w, 36h or 90m`,
		"-3d":                   `"-3d": write a time such as 30d, 2w, 36h or 90m`,
		"1.5d":                  `"1.5d": write a time such as 30d, 2w, 36h or 90m`,
		"12h1d":                 `"12h1d": write a time such as 30d, 2w, 36h or 90m`,
		"1d-2h":                 `"1d-2h": it is negative: write a time such as 30d, 2w, 36h or 90m`,
		"-2h":                   `"-2h": it is negative: write a time such as 30d, 2w, 36h or 90m`,
		"3 days":                `"3 days": write a time such as 30d, 2w, 36h or 90m`,
		"1d5":                   `"1d5": the unit is missing: write a time such as 30d, 2w, 36h or 90m`,
		"15251w":                `"15251w": that is longer than 292 years`,
		"106751d24h":            `"106751d24h": that is longer than 292 years`,
		"99999999999999999999d": `"99999999999999999999d": write a time such as 30d, 2w, 36h or 90m`,
	} {
		var s span
		if err := s.UnmarshalText([]byte(text)); err == nil || err.Error() != want {
			t.Errorf("%q: %v, %v", text, time.Duration(s), err)
		}
	}
}
