package status

import (
	"strings"
	"testing"

	"linkcancel/internal/ledger"
)

func verification(population, sample, payable, unknown int64) ledger.Batch {
	return ledger.Batch{
		Source: ledger.SourceVerify, State: ledger.Done, Total: sample, Population: population,
		Counts: ledger.Counts{ledger.NotPayable: sample - payable - unknown, ledger.StillPayable: payable, ledger.Unknown: unknown},
	}
}

// The bound is the largest number of payable links with which a sample like this one is still likely.
func TestAtMost(t *testing.T) {
	for _, tt := range []struct{ population, sample, payable, unknown, want int64 }{
		{100_000, 10_000, 0, 0, 28}, // (1-0.1)^28 = 0.052
		{100_000, 1000, 0, 0, 297},
		{1_000_000, 10_000, 0, 0, 298},
		{100, 99, 0, 0, 0}, // the one that was not read is payable with a probability of 1% only
		{1000, 500, 0, 0, 4},
		{100, 1, 0, 0, 95},
		{100, 1, 1, 0, 100},
	} {
		v := verification(tt.population, tt.sample, tt.payable, tt.unknown)
		got, known := AtMost(v)
		if got != tt.want || !known {
			t.Errorf("%+v: %d, %t", tt, got, known)
		}
		found := tt.payable + tt.unknown
		if p := likely(tt.population, got, tt.sample, found); p <= 1-Confidence && got > found {
			t.Errorf("%+v: %d payable links have the probability %f", tt, got, p)
		}
		if most := tt.population - tt.sample + found; got < most && likely(tt.population, got+1, tt.sample, found) > 1-Confidence {
			t.Errorf("%+v: %d would be likely, too", tt, got+1)
		}
	}
	// More findings, or unknown links, mean a higher bound.
	before := int64(0)
	for payable := range int64(20) {
		got, _ := AtMost(verification(100_000, 10_000, payable, 0))
		unknown, _ := AtMost(verification(100_000, 10_000, 0, payable))
		if got <= before || got < 10*payable || unknown != got {
			t.Errorf("%d payable: %d, %d after %d", payable, got, unknown, before)
		}
		before = got
	}
	aborted := verification(100, 10, 0, 0)
	aborted.State = ledger.AbortedState
	for name, b := range map[string]ledger.Batch{
		"all were read": verification(100, 100, 0, 0), "it was aborted": aborted, "no verification": {State: ledger.Done, Total: 10, Population: 100},
	} {
		if got, known := AtMost(b); known || got != 0 {
			t.Errorf("%s: %d", name, got)
		}
	}
}

func TestConclusion(t *testing.T) {
	for want, v := range map[string]ledger.Batch{
		"all 20,000 links read: none is payable":                                                            verification(20_000, 20_000, 0, 0),
		"all 20,000 links read: 7 still payable":                                                            verification(20_000, 20_000, 7, 0),
		"all 20,000 links read: 7 still payable, 1,000 unknown":                                             verification(20_000, 20_000, 7, 1000),
		"10,000 of 100,000 links read: none is payable. With 95% confidence, at most 28 of all are payable": verification(100_000, 10_000, 0, 0),
		"": {Source: ledger.SourceVerify, State: ledger.Running},
	} {
		if got := Conclusion(v); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := Conclusion(ledger.Batch{Source: "import", State: ledger.Done}); got != "" {
		t.Error(strings.TrimSpace(got))
	}
}
