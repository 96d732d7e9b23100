package ratelimit

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestParseRate(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Rate
		text string // of the String
	}{
		{"10/s", 10, "10/s"},
		{"10", 10, "10/s"},
		{" 10/s\n", 10, "10/s"},
		{"30/m", 0.5, "30/m"},
		{"0.5/s", 0.5, "30/m"},
		{"1000/h", 1000.0 / 3600, "1000/h"},
		{"60/m", 1, "1/s"},
		{"3600/h", 1, "1/s"},
		{"1/m", 1.0 / 60, "1/m"},
		{".5/s", 0.5, "30/m"},
		{"2.5/s", 2.5, "2.5/s"},
		{"010/s", 10, "10/s"},
		{"1000000/s", MaxRate, "1000000/s"},
	} {
		got, err := ParseRate(tt.in)
		if err != nil || got != tt.want || got.String() != tt.text {
			t.Errorf("ParseRate(%q) = %v (%v), %v; want %v (%s)", tt.in, float64(got), got, err, float64(tt.want), tt.text)
		}
	}
}

func TestParseRateErrors(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", "it is empty"},
		{"0/s", "a rate of 0 would never end"},
		{"0.0/m", "a rate of 0 would never end"},
		{"0", "a rate of 0 would never end"},
		{"-1/s", "cannot be negative"},
		{"-0/s", "cannot be negative"},
		{"NaN/s", "not a plain decimal number"},
		{"inf/s", "not a plain decimal number"},
		{"1e3/s", "not a plain decimal number"},
		{"0x10/s", "not a plain decimal number"},
		{"1_000/s", "not a plain decimal number"},
		{"1,000/s", "not a plain decimal number"},
		{"1.2.3/s", "not a plain decimal number"},
		{"./s", "not a plain decimal number"},
		{"/s", "not a plain decimal number"},
		{"fast", "not a plain decimal number"},
		{"10/d", `unknown unit "d"`},
		{"10/", `unknown unit ""`},
		{"10/s/s", `unknown unit "s/s"`},
		{"10 /s", "not a plain decimal number"},
		{"1000000.1/s", "above the highest possible rate, 1000000/s"},
		{"60000001/m", "above the highest"},
		{strings.Repeat("9", 400) + "/s", "above the highest"},
		{"0.0000001/h", "below one request a day"},
		{"0." + strings.Repeat("0", 400) + "1/s", "a rate of 0"},
	} {
		_, err := ParseRate(tt.in)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("ParseRate(%q): error %v, want one with %q", tt.in, err, tt.want)
		}
	}
}

func TestRateText(t *testing.T) {
	var v struct{ Rate Rate }
	if err := json.Unmarshal([]byte(`{"Rate":"90/m"}`), &v); err != nil || v.Rate != 1.5 {
		t.Errorf("unmarshal 90/m: %v, %v; want 1.5", float64(v.Rate), err)
	}
	if err := v.Rate.UnmarshalText([]byte("7/d")); err == nil || v.Rate != 1.5 {
		t.Errorf("unmarshal 7/d: %v, %v; want an error and the old rate", float64(v.Rate), err)
	}
	if got := Rate(0).String(); got != "0/s" {
		t.Errorf("zero rate: %s", got)
	}
}

func FuzzParseRate(f *testing.F) {
	for _, s := range []string{"10/s", "30/m", "1000/h", "0.5/s", "10", "0/s", "-1/s", "NaN/s", "1e9/s", "0.1/h", "7.77/m", "16666666.7/m"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRate(s)
		if err != nil {
			if r != 0 {
				t.Fatalf("ParseRate(%q) = %v with error %v", s, float64(r), err)
			}
			return
		}
		if !(r > 0 && r <= 1e6) {
			t.Fatalf("ParseRate(%q) = %v", s, float64(r))
		}
		text := r.String()
		if back, err := ParseRate(text); err != nil || back != r {
			t.Fatalf("ParseRate(%q) = %v, whose text %q reads as %v, %v", s, float64(r), text, float64(back), err)
		}
	})
}
