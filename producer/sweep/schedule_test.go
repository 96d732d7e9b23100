package sweep

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"linkcancel/internal/walltime"
)

func schedule(t testing.TB, expression, zone string) *Schedule {
	t.Helper()
	s, err := ParseSchedule(expression, zone)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func at(t testing.TB, text string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestScheduleNext(t *testing.T) {
	for _, tt := range []struct {
		name, expression, zone, from string
		want                         []string // one after the other
	}{
		{"every night", "0 2 * * *", "Asia/Almaty", "2026-11-23T12:00:00Z",
			[]string{"2026-11-24T02:00:00+05:00", "2026-11-25T02:00:00+05:00"}},
		{"the instant itself is past", "0 2 * * *", "UTC", "2026-11-24T02:00:00Z", []string{"2026-11-25T02:00:00Z"}},
		{"a moment before it is not", "0 2 * * *", "", "2026-11-24T01:59:59.999Z", []string{"2026-11-24T02:00:00Z"}},
		{"in another zone than it is asked in", "0 2 * * *", "Asia/Almaty", "2026-11-24T07:00:00+12:00",
			[]string{"2026-11-24T02:00:00+05:00"}},
		{"by name", "@daily", "America/New_York", "2026-06-30T12:00:00Z",
			[]string{"2026-07-01T00:00:00-04:00", "2026-07-02T00:00:00-04:00"}},
		{"weekdays", "30 3 * * mon-fri", "UTC", "2026-11-20T03:30:00Z", []string{"2026-11-23T03:30:00Z", "2026-11-24T03:30:00Z"}},
		{"the end of February", "0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", []string{"2028-02-29T00:00:00Z"}},

		// Berlin, 2026-03-29: 02:00 is 03:00.
		{"what is left out comes at the end of the gap", "0 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z",
			[]string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"}},
		{"half past, too", "30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z",
			[]string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"}},
		{"all of it once", "*/20 2 * * *", "Europe/Berlin", "2026-03-28T23:00:00Z",
			[]string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"}},
		{"together with what is due there anyway", "0 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z",
			[]string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"}},
		{"around the gap", "59 1 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z",
			[]string{"2026-03-29T01:59:00+01:00", "2026-03-30T01:59:00+02:00"}},
		{"each hour that there is", "0 * * * *", "Europe/Berlin", "2026-03-29T00:30:00+01:00",
			[]string{"2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"}},

		// Berlin, 2026-10-25: 03:00 is 02:00.
		{"what comes twice is due at the first time", "0 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z",
			[]string{"2026-10-25T02:00:00+02:00", "2026-10-26T02:00:00+01:00"}},
		{"also when asked in between", "30 2 * * *", "Europe/Berlin", "2026-10-25T02:00:00+01:00",
			[]string{"2026-10-26T02:30:00+01:00"}},
		{"several in that hour", "*/30 2 * * *", "Europe/Berlin", "2026-10-25T00:00:00+02:00",
			[]string{"2026-10-25T02:00:00+02:00", "2026-10-25T02:30:00+02:00", "2026-10-26T02:00:00+01:00"}},
		{"behind it", "0 3 * * *", "Europe/Berlin", "2026-10-25T02:59:00+02:00", []string{"2026-10-25T03:00:00+01:00"}},
		{"each hour, both of them", "0 * * * *", "Europe/Berlin", "2026-10-25T01:30:00+02:00",
			[]string{"2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"}},

		// Santiago, 2026-09-06: midnight is 01:00; 2026-04-05: midnight is 23:00.
		{"a day without a midnight", "@daily", "America/Santiago", "2026-09-05T12:00:00Z",
			[]string{"2026-09-06T01:00:00-03:00", "2026-09-07T00:00:00-03:00"}},
		{"an evening that comes twice", "30 23 * * *", "America/Santiago", "2026-04-04T12:00:00Z",
			[]string{"2026-04-04T23:30:00-03:00", "2026-04-05T23:30:00-04:00"}},
		{"each hour of a day without a midnight", "0 * 6 9 *", "America/Santiago", "2026-09-01T12:00:00Z",
			[]string{"2026-09-06T01:00:00-03:00", "2026-09-06T02:00:00-03:00"}},
		// Lord Howe sets its clocks by half an hour.
		{"half an hour left out", "15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z",
			[]string{"2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"}},
		{"half an hour twice", "45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z",
			[]string{"2026-04-05T01:45:00+11:00", "2026-04-06T01:45:00+10:30"}},
		// Samoa left out a whole day.
		{"a day left out", "0 2 * * *", "Pacific/Apia", "2011-12-28T12:00:00Z",
			[]string{"2011-12-29T02:00:00-10:00", "2011-12-31T00:00:00+14:00", "2011-12-31T02:00:00+14:00"}},
		// Almaty itself went from +06:00 to +05:00 in 2024, at midnight.
		{"Almaty in 2024", "30 23 * * *", "Asia/Almaty", "2024-02-28T12:00:00Z",
			[]string{"2024-02-28T23:30:00+06:00", "2024-02-29T23:30:00+06:00", "2024-03-01T23:30:00+05:00"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := schedule(t, tt.expression, tt.zone)
			next := at(t, tt.from)
			var got []string
			for range tt.want {
				next = s.Next(next)
				got = append(got, next.Format(time.RFC3339))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Whatever the zone and the season, a daily sweep is due once for each date: as
// soon as the clock shows its time or, for want of that, a later one. The same
// answer comes wherever in between it is asked.
func TestScheduleAgainstTheClock(t *testing.T) {
	begin, end := time.Date(2024, 1, 1, 12, 0, 0, 0, time.UTC), time.Date(2025, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, zone := range []string{
		"UTC", "Asia/Almaty", "Europe/Berlin", "America/New_York", "America/Santiago", "Australia/Lord_Howe",
		"Africa/Casablanca", "Africa/Cairo", "Asia/Beirut", "America/Havana", "America/Nuuk", "Pacific/Kiritimati",
	} {
		var all []*Schedule
		var wanted []time.Time // what the clock has to show next
		for expression, hours := range map[string]float64{
			"0 0 * * *": 0, "30 0 * * *": 0.5, "0 2 * * *": 2, "30 2 * * *": 2.5, "30 23 * * *": 23.5,
		} {
			s := schedule(t, expression, zone)
			first := walltime.On(begin.In(s.loc)).Truncate(24 * time.Hour).Add(time.Duration(hours * float64(time.Hour)))
			for !first.After(walltime.On(begin.In(s.loc))) {
				first = first.Add(24 * time.Hour)
			}
			all, wanted = append(all, s), append(wanted, first)
		}
		last := make([]time.Time, len(all))
		names := map[string]bool{}
		for now := begin; now.Before(end); now = now.Add(15 * time.Minute) {
			for i, s := range all {
				if walltime.On(now.In(s.loc)).Before(wanted[i]) {
					continue
				}
				asked := begin
				if !last[i].IsZero() {
					asked = last[i].Add(rand.N(now.Sub(last[i])))
				}
				if got := s.Next(asked); !got.Equal(now) {
					t.Fatalf("%s: after %v comes %v, want %v", s, asked.In(s.loc), got, now.In(s.loc))
				}
				name := s.Name(now)
				if name != wanted[i].Format(time.DateOnly) || names[s.String()+name] {
					t.Fatalf("%s: %v is called %s", s, now.In(s.loc), name)
				}
				names[s.String()+name] = true
				last[i], wanted[i] = now, wanted[i].Add(24*time.Hour)
			}
		}
		if len(names) < 365*len(all) { // a year from noon to noon of UTC
			t.Errorf("%s: %d times", zone, len(names))
		}
	}
}

// Sweeps of a schedule that has several a day have names of their own, also in
// an hour that comes twice.
func TestScheduleNames(t *testing.T) {
	for _, tt := range []struct {
		expression, at, want string
	}{
		{"0 2 * * *", "2026-10-25T00:00:00Z", "2026-10-25"},
		{"@weekly", "2026-10-24T22:00:00Z", "2026-10-25"},
		{"* * * * *", "2026-10-25T00:30:00Z", "2026-10-25T0230+0200"},
		{"* * * * *", "2026-10-25T01:30:00Z", "2026-10-25T0230+0100"},
		{"0 2,14 * * *", "2026-11-24T13:00:00Z", "2026-11-24T1400+0100"},
		{"0,30 2 * * *", "2026-11-24T01:30:00Z", "2026-11-24T0230+0100"},
		{"* 2 * * *", "2026-11-24T01:30:00Z", "2026-11-24T0230+0100"},
	} {
		if got := schedule(t, tt.expression, "Europe/Berlin").Name(at(t, tt.at)); got != tt.want {
			t.Errorf("%s at %s: %s, want %s", tt.expression, tt.at, got, tt.want)
		}
	}
}

// In the day of the week, 7 is Sunday too.
func TestSundayIsSeven(t *testing.T) {
	for expression, want := range map[string]string{
		"7": "Sun", "0,7": "Sun", "7-7": "Sun", "3,7": "Sun Wed", "5-7": "Sun Fri Sat", "fri-7": "Sun Fri Sat", "1-7": "Sun Mon Tue Wed Thu Fri Sat",
		"0-7": "Sun Mon Tue Wed Thu Fri Sat", "1-7/2": "Sun Mon Wed Fri", "mon-7/3": "Sun Mon Thu", "2-7/2": "Tue Thu Sat", "0-7/7": "Sun", "*/7": "Sun",
		"6-7,2": "Sun Tue Sat", "1-5": "Mon Tue Wed Thu Fri", "sat": "Sat", "5/2": "Fri", "0-7/9999999999": "Sun", "1-7/9223372036854775807": "Mon",
	} {
		s := schedule(t, "0 2 * * "+expression, "UTC")
		var got []string
		for day := at(t, "2026-11-22T00:00:00Z"); len(got) < 7; { // a Sunday
			next := s.Next(day)
			if next.After(at(t, "2026-11-29T00:00:00Z")) {
				break
			}
			got, day = append(got, next.Format("Mon")), next
		}
		if days := strings.Join(got, " "); days != want || s.String() != "0 2 * * "+expression+" UTC" {
			t.Errorf("%s: %s on %s, want %s", expression, s, days, want)
		}
	}
	// 7 is a number like any other in the other fields.
	next := schedule(t, "7 7 7 7 *", "UTC").Next(at(t, "2026-11-22T00:00:00Z"))
	if want := at(t, "2027-07-07T07:07:00Z"); !next.Equal(want) {
		t.Errorf("%v, want %v", next, want)
	}
}

func TestParseSchedule(t *testing.T) {
	for _, tt := range []struct{ expression, zone, want string }{
		{"0 2 * * *", "Asia/Almaty", "0 2 * * * Asia/Almaty"},
		{" 0  2\t* * * ", "", "0 2 * * * UTC"},
		{"@daily", "UTC", "@daily UTC"},
	} {
		if s := schedule(t, tt.expression, tt.zone); s.String() != tt.want {
			t.Errorf("%q: %q", tt.expression, s)
		}
	}
	for _, tt := range []struct{ expression, zone, want string }{
		{"", "UTC", "use five fields"},
		{"nonsense", "UTC", "use five fields"},
		{"0 2 * *", "UTC", "use five fields"},
		{"0 0 2 * * *", "UTC", "use five fields"}, // with seconds
		{"60 2 * * *", "UTC", "use five fields"},
		{"0 2 * * 8", "UTC", "above maximum"},
		{"0 2 * * 7-1", "UTC", "beyond end"},
		{"0 2 * * 7/2", "UTC", "use five fields"},
		{"0 2 * * 1-7/0", "UTC", "positive number: 1-6/0"},
		{"0 2 * * 1-7/x", "UTC", "use five fields"},
		{"0 2 * * 1-7/2/3", "UTC", "too many slashes"},
		{"0 2 * * 9-7/2", "UTC", "beyond end"},
		{"0 2 * * someday-7", "UTC", "use five fields"},
		{"0 2 * * -7", "UTC", "use five fields"},
		{"0 2 * * 1-3-7", "UTC", "too many hyphens"},
		{"0 2 * 7-13 *", "UTC", "above maximum"},
		{"7 2 * *", "UTC", "use five fields"},
		{"*/0 2 * * *", "UTC", "use five fields"},
		{"@nightly", "UTC", "use five fields"},
		{"@every 1h", "UTC", "has no time of day"},
		{"@reboot", "UTC", "use five fields"},
		{"TZ=UTC", "UTC", "time zone apart"},
		{"CRON_TZ=Asia/Tokyo 0 2 * * *", "UTC", "time zone apart"},
		{"0 0 30 2 *", "UTC", "no such day"},
		{"0 2 * * *", "Asia/Nowhere", "IANA name"},
		{"0 2 * * *", "../etc/passwd", "IANA name"},
		{"0 2 * * *", "local", "IANA name"},
		{"0 2 * * *", "+05:00", "IANA name"},
	} {
		_, err := ParseSchedule(tt.expression, tt.zone)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q in %q: %v, want %q", tt.expression, tt.zone, err, tt.want)
		}
	}
}

// Whatever is given either is refused or has a next time, after the one asked for.
func FuzzSchedule(f *testing.F) {
	f.Add("0 2 * * *", "Asia/Almaty", int64(1_764_000_000))
	f.Add("*/7 */5 1-15/2 jan,jul mon", "Europe/Berlin", int64(1_792_890_000))
	f.Add("@hourly", "", int64(0))
	f.Add("TZ=", "UTC", int64(1))
	f.Add("59 23 31 12 ?", "Pacific/Apia", int64(1_325_100_000))
	f.Fuzz(func(t *testing.T, expression, zone string, unix int64) {
		s, err := ParseSchedule(expression, zone)
		if err != nil {
			return
		}
		from := time.Unix(unix%4_000_000_000, 0)
		next := s.Next(from)
		if !next.IsZero() && !next.After(from) {
			t.Errorf("%s: after %v comes %v", s, from, next)
		}
		if between := from.Add(next.Sub(from) / 2); !next.IsZero() && !s.Next(between).Equal(next) {
			t.Errorf("%s: after %v comes %v, after %v %v", s, from, next, between, s.Next(between))
		}
	})
}
