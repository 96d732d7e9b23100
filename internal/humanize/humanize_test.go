package humanize

import "testing"

func TestRate(t *testing.T) {
	for rate, want := range map[float64]string{
		0: "0.0/s", 1234.5: "1234/s", 12: "12/s", 9.94: "9.9/s", 1: "1.0/s", 0.5: "30.0/min", 1.0 / 60: "1.0/min", 1.0 / 120: "30.0/h", 1.0 / 86400: "0.0/h",
	} {
		if got := Rate(rate); got != want {
			t.Errorf("%v: %s, want %s", rate, got, want)
		}
	}
}
