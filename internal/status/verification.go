package status

import (
	"fmt"
	"math"

	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
)

// Confidence is that of a bound from a sample.
const Confidence = 0.95

// sampled reports whether a batch is a verification of some of the links, all of which were read.
func sampled(v ledger.Batch) bool {
	return v.Verifies() && v.State == ledger.Done && v.Total < v.Population
}

// AtMost is an upper bound, with Confidence, of the links that can still be paid among all that the
// verified batch reports as not payable. Links whose status is unknown count as payable. known is
// false unless the verification is a sample that was read to its end.
func AtMost(v ledger.Batch) (links int64, known bool) {
	if !sampled(v) {
		return 0, false
	}
	found := v.Counts[ledger.StillPayable] + v.Counts[ledger.Unknown]
	low, high := found, v.Population-(v.Total-found) // these many are possible
	for low < high {
		if middle := (low + high + 1) / 2; likely(v.Population, middle, v.Total, found) > 1-Confidence {
			low = middle
		} else {
			high = middle - 1
		}
	}
	return low, true
}

// likely is the probability that a sample has at most found of the payable links: the cumulative
// hypergeometric distribution.
func likely(population, payable, sample, found int64) float64 {
	sum := 0.0
	for i := max(0, sample-(population-payable)); i <= min(found, payable, sample); i++ {
		sum += math.Exp(choices(payable, i) + choices(population-payable, sample-i) - choices(population, sample))
	}
	return sum
}

// choices is the logarithm of the binomial coefficient.
func choices(n, k int64) float64 {
	of := func(n int64) float64 { v, _ := math.Lgamma(float64(n) + 1); return v }
	return of(n) - of(k) - of(n-k)
}

// Conclusion says what a verification shows about the batch that it verifies; "" until it is done.
func Conclusion(v ledger.Batch) string {
	if !v.Verifies() || v.State != ledger.Done {
		return ""
	}
	payable, unknown := v.Counts[ledger.StillPayable], v.Counts[ledger.Unknown]
	text := "none is payable"
	switch {
	case payable > 0:
		text = humanize.Digits(payable) + " still payable"
	case unknown > 0:
		text = "none is known to be payable"
	}
	if unknown > 0 {
		text += ", " + humanize.Digits(unknown) + " unknown"
	}
	atMost, known := AtMost(v)
	if !known {
		return fmt.Sprintf("all %s read: %s", humanize.Plural(v.Total, "link"), text)
	}
	return fmt.Sprintf("%s of %s read: %s. With %.0f%% confidence, at most %s of all are payable",
		humanize.Digits(v.Total), humanize.Plural(v.Population, "link"), text, 100*Confidence, humanize.Digits(atMost))
}

// LinksRead is how many links a verification has read, whatever it found.
func LinksRead(v ledger.Batch) int64 { return v.Counts.Sum() - v.Counts[ledger.Aborted] }

// VerificationView is a verification of a batch.
type VerificationView struct {
	Batch        string       `json:"batch"`
	State        ledger.State `json:"state"`
	Links        int64        `json:"links"`
	Population   int64        `json:"population"` // links that the batch reports as not payable
	Pending      int64        `json:"pending"`
	NotPayable   int64        `json:"not_payable"`
	StillPayable int64        `json:"still_payable"`
	Unknown      int64        `json:"unknown"`
	// PayableAtMost bounds the payable links of the population with 95% confidence; null unless the
	// verification is a sample that is done.
	PayableAtMost *int64 `json:"payable_at_most"`
}

// ViewOfVerification is the view of a verification.
func ViewOfVerification(v ledger.Batch) VerificationView {
	view := VerificationView{
		Batch: v.ID, State: v.State, Links: v.Total, Population: v.Population, Pending: v.Pending(),
		NotPayable: v.Counts[ledger.NotPayable], StillPayable: v.Counts[ledger.StillPayable], Unknown: v.Counts[ledger.Unknown],
	}
	if atMost, known := AtMost(v); known {
		view.PayableAtMost = &atMost
	}
	return view
}
