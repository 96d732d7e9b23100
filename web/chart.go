package web

import (
	"fmt"
	"time"

	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
	"linkcancel/internal/status"
)

// The size of the chart in its own units.
const chartWidth, chartHeight = 960.0, 160.0

// chart is the throughput over the life of a batch: a column for each interval, in parts by outcome.
type chart struct {
	Columns []column
	Most    int64 // links in the highest column
	Step    string
	From    time.Time
	To      time.Time
}

type column struct {
	status.Interval
	Title string
	Parts []part
	Links int64
}

// part is a rectangle of a column.
type part struct {
	Outcome             string
	X, Y, Width, Height float64
}

func chartOf(intervals []status.Interval) chart {
	if len(intervals) == 0 {
		return chart{}
	}
	c := chart{From: intervals[0].From, To: intervals[len(intervals)-1].To, Step: humanize.Duration(intervals[0].To.Sub(intervals[0].From))}
	for _, i := range intervals {
		c.Most = max(c.Most, i.Counts.Sum())
	}
	width := chartWidth / float64(len(intervals))
	for n, i := range intervals {
		col := column{Interval: i, Links: i.Counts.Sum()}
		col.Title = fmt.Sprintf("%s: %s", i.From.UTC().Format("2006-01-02 15:04:05 UTC"), humanize.Plural(col.Links, "link"))
		y := chartHeight
		for o := range ledger.Outcome(len(i.Counts)) {
			if i.Counts[o] == 0 {
				continue
			}
			height := chartHeight * float64(i.Counts[o]) / float64(c.Most)
			y -= height
			col.Parts = append(col.Parts, part{o.String(), float64(n)*width + width*0.1, y, width * 0.8, height})
			col.Title += fmt.Sprintf(", %s %s", humanize.Digits(i.Counts[o]), o)
		}
		c.Columns = append(c.Columns, col)
	}
	return c
}
