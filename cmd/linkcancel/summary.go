package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"linkcancel/internal/clean"
	"linkcancel/internal/humanize"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/status"
)

// allAlike names the outcome of a finished batch whose links are all not_found or all rejected,
// which says more of the request than of the links; "" otherwise.
func allAlike(b ledger.Batch) string {
	for _, o := range [...]ledger.Outcome{ledger.NotFound, ledger.Rejected} {
		if b.Total > 0 && b.Counts[o] == b.Total {
			return o.String()
		}
	}
	return ""
}

// linksExit is the exit code for a finished or paused batch. Outcomes of a paused one may change.
func linksExit(b ledger.Batch, r status.Result) int {
	if r.Payable > 0 || b.Counts[ledger.Failed] > 0 || b.Pending() > 0 || b.State == ledger.Paused || allAlike(b) != "" {
		return exitLinks
	}
	return exitFine
}

// summary is a batch and its result, for people.
type summary struct {
	ledger.Batch
	status.Result
	interrupted bool  // by the user
	skipped     int64 // rows of the input that were not checked

	verification *ledger.Batch // of the batch; nil: none
	unverified   bool          // the verification did not end
}

// exit is the exit code: exitLinks also if the verification found links that are not certainly closed.
func (s summary) exit() int {
	if v := s.verification; v != nil {
		if v.Counts[ledger.StillPayable]+v.Counts[ledger.Unknown] > 0 || v.Ended() && v.Counts[ledger.NotPayable] < v.Total {
			return exitLinks
		}
	}
	return linksExit(s.Batch, s.Result)
}

// next is the command for the next step.
func (s summary) next() string {
	if v := s.verification; v != nil && v.Counts[ledger.StillPayable] > 0 {
		return nextStep(*v)
	}
	return nextStep(s.Batch)
}

// latestVerification is that of a batch as it is now; nil: none.
func latestVerification(ctx context.Context, l *ledger.Ledger, b ledger.Batch) (*ledger.Batch, error) {
	made, err := l.VerificationsOf(ctx, b)
	if err != nil || len(made) == 0 {
		return nil, err
	}
	return &made[len(made)-1], nil
}

// print shows the outcomes as an aligned table with their reasons, then what may still be payable.
func (s summary) print(w io.Writer) {
	t := terminalOf(w)
	fmt.Fprintf(w, "%s\n\n", s.head())
	width := len(humanize.Digits(s.Total))
	row := func(name string, n int64, color string, more ...string) {
		line := fmt.Sprintf("%-18s %*s", name, width, humanize.Digits(n))
		for i, text := range more {
			if i == 0 {
				line += "   " + text
			} else {
				line += "\n" + strings.Repeat(" ", 2+18+1+width+3) + text
			}
		}
		paintLine(w, t, color, "  "+line)
	}
	for _, o := range s.Outcomes() {
		color := ""
		if problem := o == ledger.Rejected || o == ledger.Failed || o == ledger.Aborted || o == ledger.StillPayable; problem && s.Counts[o] > 0 {
			color = red
		}
		row(o.String(), s.Counts[o], color, s.reasons(o)...)
	}
	if s.Pending() > 0 {
		row("pending", s.Pending(), "")
	}
	var more []string
	if s.Duplicates > 0 {
		more = append(more, humanize.Plural(s.Duplicates, "duplicate"))
	}
	if s.Invalid > 0 {
		more = append(more, humanize.Plural(s.Invalid, "skipped row"))
	}
	fmt.Fprintf(w, "  %s\n", strings.Repeat("─", 19+width))
	if len(more) > 0 {
		more = []string{"and " + strings.Join(more, ", ")}
	}
	row("total", s.Total, "", more...)
	if text := status.Conclusion(s.Batch); text != "" {
		color := ""
		if s.Payable > 0 {
			color = red
		}
		fmt.Fprintln(w)
		paintLine(w, t, color, "Verified: "+text)
	} else if s.Ended() || s.interrupted || s.State == ledger.Paused {
		color := ""
		if s.Payable > 0 {
			color = red
		}
		fmt.Fprintln(w)
		text := s.payable()
		if s.verification != nil {
			text = "By the outcomes, s" + strings.TrimPrefix(text, "S")
		}
		paintLine(w, t, color, text)
	}
	if v := s.verification; v != nil {
		color := ""
		if v.Counts[ledger.StillPayable] > 0 {
			color = red
		}
		text := "Verified: " + verifiedText(*v)
		if s.Source != importer.SourceRun { // its Redis ends with it
			text += " (" + v.ID + ")"
		}
		paintLine(w, t, color, text)
	}
}

func (s summary) head() string {
	head := "Batch " + s.ID
	switch {
	case s.interrupted && s.Pending() > 0:
		head += fmt.Sprintf(" was interrupted: %s of %s left", humanize.Digits(s.Pending()), humanize.Plural(s.Total, "link"))
	default:
		head += " is " + string(s.State)
	}
	switch {
	case !s.Finished.IsZero() && !s.Started.IsZero():
		head += " (" + humanize.Duration(s.Finished.Sub(s.Started)) + ")"
	case s.Reason != "":
		head += " (" + status.Reason(s.Batch) + ")"
	}
	if s.Parent != "" {
		if s.Verifies() {
			head += ", a verification of " + s.Parent
		} else {
			head += ", a retry of " + s.Parent
		}
	}
	return head
}

// shownReasons is how many reasons of one outcome are shown.
const shownReasons = 5

// reasons are the reasons of an outcome: 400: bad request (20).
func (s summary) reasons(o ledger.Outcome) []string {
	if o == ledger.NotCancellable {
		if len(s.Statuses) == 0 {
			return nil
		}
		return []string{clean.Line(s.Statuses.String())}
	}
	var lines []string
	var rest, reasons int64
	for _, r := range s.Reasons {
		if r.Outcome != o || r.HTTPStatus == 0 && r.Text == "" {
			continue
		}
		if len(lines) == shownReasons {
			rest += r.Links
			reasons++
			continue
		}
		line := reasonText(r)
		if r.Links < s.Counts[o] {
			line += " (" + humanize.Digits(r.Links) + ")"
		}
		lines = append(lines, line)
	}
	if reasons > 0 {
		lines = append(lines, fmt.Sprintf("… and %s (%s)", humanize.Plural(reasons, "other reason"), humanize.Digits(rest)))
	}
	return lines
}

// reasonText is a reason in words: the status, then what the API or the connection said.
func reasonText(r status.ReasonCount) string {
	switch {
	case r.HTTPStatus == 0:
		return "no answer: " + clean.Line(r.Text)
	case r.Text == "":
		return fmt.Sprint(r.HTTPStatus)
	}
	return fmt.Sprintf("%d, %s", r.HTTPStatus, clean.Line(r.Text))
}

// payable says how many links may still take payments.
func (s summary) payable() string {
	of := humanize.Digits(s.Total)
	var text string
	switch {
	case s.Payable == 0:
		text = "Still payable: 0 of " + of
	case s.Payable == s.Unknown:
		text = fmt.Sprintf("Still payable: unknown for %s of %s", humanize.Digits(s.Unknown), of)
	default:
		text = fmt.Sprintf("Still payable: %s of %s", humanize.Digits(s.Payable), of)
		if s.Unknown > 0 {
			text += fmt.Sprintf(" (for %s of them this is unknown)", humanize.Digits(s.Unknown))
		}
	}
	if s.skipped > 0 {
		text += fmt.Sprintf("; %s not checked", pluralOf(s.skipped, "skipped row was", "skipped rows were"))
	}
	return text
}

// canaryHint is what to check when the canary has stopped a batch.
const canaryHint = "wrong base URL, wrong column, or another merchant's links?"

// finished prints the summary of a run, and what to do next. It returns the exit code as an error.
func (a *cliApp) finished(out io.Writer, s summary, reportPath string) error {
	code := s.exit()
	if code != exitFine && out == io.Discard {
		out = a.stderr // --quiet hides only what is well
	}
	fmt.Fprintln(out)
	s.print(out)
	if reportPath != "" && reportPath != "-" {
		fmt.Fprintf(out, "Report: %s\n", clean.Line(reportPath))
	}
	run := s.Source == importer.SourceRun
	next := s.next()
	if run {
		next = "linkcancel run --retry " + reportPath
	}
	switch {
	case s.interrupted && (s.Pending() > 0 || s.unverified):
		fmt.Fprintf(a.stderr, "Next: linkcancel run --resume %s\n", reportPath)
		code = exitInterrupted
	case s.State == ledger.Paused && run && strings.HasPrefix(s.Reason, "threshold:"):
		fmt.Fprintf(a.stderr, "Stopped: %s. The report has the links.\nTo continue: linkcancel run --resume %s\n", status.Reason(s.Batch), reportPath)
	case s.State == ledger.Paused && run:
		fmt.Fprintf(a.stderr, "Stopped: %s: %s\nTo continue anyway: linkcancel run --resume %s\n", status.Reason(s.Batch), canaryHint, reportPath)
	case s.State == ledger.Paused:
		fmt.Fprintf(a.stderr, "Stopped: %s. Next: %s\n", status.Reason(s.Batch), nextStep(s.Batch))
	case allAlike(s.Batch) != "":
		fmt.Fprintf(a.stderr, "Every link is %s: %s\n", allAlike(s.Batch), canaryHint)
		if s.Payable > 0 {
			fmt.Fprintf(a.stderr, "Then: %s\n", next)
		}
	case code == exitLinks:
		fmt.Fprintf(a.stderr, "Next: %s\n", next)
	}
	if code != exitFine {
		return exit(code)
	}
	return nil
}
