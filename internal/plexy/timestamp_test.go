package plexy

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func utc(t *testing.T, text string) time.Time {
	t.Helper()
	if text == "" {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// Dates with a zone, and times since 1970.
func TestDateWithZone(t *testing.T) {
	const midnight = "2025-03-14T00:00:00Z"
	for value, want := range map[string]string{
		`"2025-03-14T00:00:00Z"`:                               midnight,
		`"2025-03-14t00:00:00z"`:                               midnight,
		`"2025-03-14 00:00:00Z"`:                               midnight,
		`"2025-03-14 00:00:00 Z"`:                              midnight,
		`"  2025-03-14T00:00:00Z "`:                            midnight,
		`"2025-03-14 00:00:00 UTC"`:                            midnight,
		`"2025-03-14 00:00:00 +0000 UTC"`:                      midnight,
		`"2025-03-14 00:00:00.5 +0000 UTC m=+0.000012"`:        "2025-03-14T00:00:00.5Z",
		`"2025-03-14T05:00:00+0500"`:                           midnight,
		`"2025-03-14T05:00:00+05"`:                             midnight,
		`"2025-03-14T05:00:00 +05:00"`:                         midnight,
		`"2025-03-14 05:00:00 +0500 +05"`:                      midnight,
		`"2025-03-14 05:00:00 UTC+5"`:                          midnight,
		`"2025-03-14T05:00:00GMT+0500"`:                        midnight,
		`"2025-03-13T18:30:00.000000-0530"`:                    midnight,
		`"2025-03-14T00:00Z"`:                                  midnight,
		`"2025-03-14T05:00+05:00"`:                             midnight,
		`"2025-03-14T01:00+01:00[Europe/Berlin]"`:              midnight,
		`"2025-03-14T00:00Z[UTC]"`:                             midnight,
		`"20250314T000000Z"`:                                   midnight,
		`"20250314T0500+0500"`:                                 midnight,
		`"2025/03/14 00:00:00Z"`:                               midnight,
		`"Fri, 14 Mar 2025 00:00:00 GMT"`:                      midnight,
		`"Fri, 14 Mar 2025 05:00:00 +0500"`:                    midnight,
		`"Fri, 14-Mar-2025 00:00:00 GMT"`:                      midnight,
		`"Friday, 14-Mar-25 00:00:00 UTC"`:                     midnight,
		`"Fri Mar 14 2025 05:00:00 GMT+0500 (Almaty, summer)"`: midnight,
		`"Fri Mar 14 05:00:00 +0500 2025"`:                     midnight,
		`"Fri Mar 14 00:00:00 UTC 2025"`:                       midnight,
		`"2025-03-14T00:00:00,123456789Z"`:                     "2025-03-14T00:00:00.123456789Z",
		`"2024-02-29T12:00:00Z"`:                               "2024-02-29T12:00:00Z",
		// A date alone is the end of that day.
		`"2025-03-13Z"`:      midnight,
		`"2025-03-13+0000"`:  midnight,
		`"2025-03-13-05:00"`: "2025-03-14T05:00:00Z",
		// Times since 1970 have a unit by their size.
		`1741910400`:          midnight,
		`1741910400000`:       midnight,
		`1741910400000000`:    midnight,
		`1741910400000000000`: midnight,
		`1741910400123`:       "2025-03-14T00:00:00.123Z",
		`1741910400123456789`: "2025-03-14T00:00:00.123456789Z",
		`1741910400.25`:       "2025-03-14T00:00:00.25Z",
		`1741910400250.5`:     "2025-03-14T00:00:00.2505Z",
		`1.7419104e9`:         midnight,
		`1.7419104E+12`:       midnight,
		`"1741910400"`:        midnight,
		`" 1741910400000 "`:   midnight,
		`"1741910400.0"`:      midnight,
		`253402300799`:        "9999-12-31T23:59:59Z",
		`253402300799000`:     "9999-12-31T23:59:59Z",
		// None of the following can be an expiry, and no value is later than 9999.
		`0`:                           "1970-01-01T00:00:00Z",
		`"0"`:                         "1970-01-01T00:00:00Z",
		`-1`:                          "1969-12-31T23:59:59Z",
		`-62135596800`:                "",
		`-62135596800000`:             "",
		`-99999999999`:                "",
		`"0001-01-01T00:00:00Z"`:      "",
		`"0000-01-01T00:00:00+05:00"`: "",
		`"0000-00-00 00:00:00"`:       "",
		`"0000-00-00"`:                "",
		`"9999-12-31T23:59:59-05:00"`: "9999-12-31T23:59:59Z",
	} {
		got, note := readDate(map[string]json.RawMessage{"at": json.RawMessage(value)}, newScrubber(testKey), "at")
		if !got.Equal(utc(t, want)) || note != (DateNote{}) {
			t.Errorf("%s: %v, %+v, want %s", value, got, note, want)
		}
	}
}

// A date without a zone is the latest instant that it can mean.
func TestDateWithoutZone(t *testing.T) {
	const noon = "2025-03-14T12:00:00Z"
	for value, want := range map[string]string{
		`"2025-03-14T00:00:00"`:              noon,
		`"2025-03-14t00:00:00"`:              noon,
		`"2025-03-14 00:00:00"`:              noon,
		`"2025-03-14  00:00"`:                noon,
		`"2025-03-14T00:00:00.000"`:          noon,
		`"2025/03/14 00:00:00"`:              noon,
		`"2025.03.14 00:00:00"`:              noon,
		`"14 Mar 2025 00:00:00"`:             noon,
		`"Fri Mar 14 00:00:00 2025"`:         noon,
		`"20250314T000000"`:                  noon,
		`"20250314000000"`:                   noon,
		`20250314000000`:                     noon,
		`"202503140000"`:                     noon,
		`20250314000000000`:                  noon,
		`"2025-03-13"`:                       noon,
		`"2025/03/13"`:                       noon,
		`"20250313"`:                         noon,
		`20250313`:                           noon,
		`"13 Mar 2025"`:                      noon,
		`"2024-02-29"`:                       "2024-03-01T12:00:00Z",
		`"2025-12-31"`:                       "2026-01-01T12:00:00Z",
		`"0001-01-01 00:00:00"`:              "0001-01-01T12:00:00Z",
		`"9999-12-31"`:                       "9999-12-31T23:59:59Z",
		`"2025-03-14 00:00:00 CST"`:          noon, // of America, China or Cuba
		`"Fri, 14 Mar 2025 00:00:00 EST"`:    noon,
		`"2025-03-14 00:00:00 Asia/Almaty"`:  noon,
		`"2025-03-14T00:00:00[Asia/Almaty]"`: noon,
	} {
		got, note := readDate(map[string]json.RawMessage{"at": json.RawMessage(value)}, newScrubber(testKey), "at")
		text := strings.Join(strings.Fields(strings.Trim(value, `"`)), " ")
		if !got.Equal(utc(t, want)) || !note.NoZone || note.Unreadable || strings.Join(strings.Fields(note.Text), " ") != text {
			t.Errorf("%s: %v, %+v, want %s", value, got, note, want)
		}
	}
}

// A value that is not a date differs from no value.
func TestDateUnreadable(t *testing.T) {
	for value, want := range map[string]string{
		`"soon"`: "soon", `"never"`: "never", `"-"`: "-", `"n/a"`: "n/a",
		`true`: "true", `false`: "false", `{}`: "{}", `[]`: "[]", `{"$date":1741910400000}`: `{"$date":1741910400000}`, `[2025,3,14]`: "[2025,3,14]",
		`"2025-02-29T00:00:00Z"`: "2025-02-29T00:00:00Z", `"2025-13-01"`: "2025-13-01", `"2025-03-14T25:00:00Z"`: "2025-03-14T25:00:00Z",
		`"2025-03-14T00:00:00+99:00"`: "2025-03-14T00:00:00+99:00", `"03/04/2025"`: "03/04/2025", `"2025-03"`: "2025-03",
		// In the afternoon, which must not be taken for the night.
		`"2025-03-14 01:00:00 PM"`: "2025-03-14 01:00:00 PM", `"2025-03-14 01:00 pm"`: "2025-03-14 01:00 pm",
		// Ticks since the year 1 and since 1601.
		`638775072000000000`: "638775072000000000", `133863840000000000`: "133863840000000000",
		`500000000`: "500000000", `1e400`: "1e400", `1e30`: "1e30", `"0x5f"`: "0x5f", `"1_741_910_400"`: "1_741_910_400", `"Infinity"`: "Infinity",
		`"20250229"`: "20250229", `20251301`: "20251301", `20250314250000`: "20250314250000", `202502290000`: "202502290000",
		`"P30D"`:                            "P30D",
		`"a\u0000\u202eb"`:                  "a  b",
		`"` + strings.Repeat("é", 50) + `"`: strings.Repeat("é", 32),
	} {
		got, note := readDate(map[string]json.RawMessage{"at": json.RawMessage(value)}, newScrubber(testKey), "at")
		if diff := cmp.Diff(DateNote{Unreadable: true, Text: want}, note); !got.IsZero() || diff != "" {
			t.Errorf("%s: %v %s", value, got, diff)
		}
	}
}

// The first name with a value counts.
func TestDateNames(t *testing.T) {
	expiry := utc(t, "2025-03-14T00:00:00Z")
	for body, want := range map[string]Link{
		`{"expires_at":"2025-03-14T00:00:00Z","created_at":1741910400}`:            {ExpiresAt: expiry, CreatedAt: expiry},
		`{"expiresAt":null,"expires_at":"2025-03-14T00:00:00Z"}`:                   {ExpiresAt: expiry},
		`{"expiresAt":"","expires_at":"2025-03-14T00:00:00Z"}`:                     {ExpiresAt: expiry},
		`{"expiresAt":" ","expires_at":"2025-03-14T00:00:00Z"}`:                    {ExpiresAt: expiry},
		`{"expiresAt":"2025-03-14T00:00:00Z","expires_at":"2031-01-01T00:00:00Z"}`: {ExpiresAt: expiry},
		`{"expiresAt":"soon","expires_at":"2025-03-14T00:00:00Z"}`:                 {ExpiresNote: DateNote{Unreadable: true, Text: "soon"}},
		`{"expiresAt":null,"expires_at":null,"createdAt":""}`:                      {},
		`{"ExpiresAt":"2025-03-14T00:00:00Z"}`:                                     {},
		`{"createdAt":"` + strings.ReplaceAll(testKey, `"`, `\"`) + `"}`:           {CreatedNote: DateNote{Unreadable: true, Text: redacted}},
		`{"createdAt":{"is":"` + strings.ReplaceAll(testKey, `"`, `\"`) + `"}}`:    {CreatedNote: DateNote{Unreadable: true, Text: `{"is":"` + redacted + `"}`}},
	} {
		var got Link
		got.readDates(decodeObject([]byte(body)), newScrubber(testKey))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", body, diff)
		}
	}
}

// Whatever comes: a date is in the years that JSON can hold, and a note is clean.
func FuzzDate(f *testing.F) {
	for _, value := range []string{
		`"2025-03-14T00:00:00Z"`, `"2025-03-14 00:00:00 +0500"`, `"2025-03-14"`, `1741910400`, `1.5e9`, `"Fri, 14 Mar 2025 00:00:00 GMT"`, `{}`, `true`, `null`,
		`"Fri Mar 14 2025 05:00:00 GMT+0500 (x)"`, `"20250314000000"`, `-62135596800`,
	} {
		f.Add(value)
	}
	scrub := newScrubber("sk_0123456789")
	f.Fuzz(func(t *testing.T, value string) {
		if !json.Valid([]byte(value)) {
			return
		}
		at, note := readDate(map[string]json.RawMessage{"at": json.RawMessage(strings.TrimSpace(value))}, scrub, "at")
		if _, err := at.MarshalJSON(); err != nil {
			t.Fatalf("%s: %v", value, err)
		}
		if note.Unreadable && (!at.IsZero() || note.NoZone) || len(note.Text) > maxWord || note.Text != scrub.line(note.Text) {
			t.Fatalf("%s: %v, %+v", value, at, note)
		}
		if (note.Text != "") != (note.NoZone || note.Unreadable) {
			t.Fatalf("%s: %+v", value, note)
		}
	})
}
