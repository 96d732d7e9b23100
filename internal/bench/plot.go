package main

import (
	"fmt"
	"html"
	"strings"
)

// panel is one group of bars of the plot.
type panel struct {
	title   string
	heading string // the case
	figure  string
}

var panels = []panel{
	{title: "Cancels per second, Redis on loopback, API of zero latency (longer is better)", heading: "drain near", figure: "links/s"},
	{title: "CPU seconds per 10,000 links, with the database (shorter is better)", heading: "drain near", figure: "cpu"},
	{title: "Cancels per second, Redis 1.3 ms away (longer is better)", heading: "drain far", figure: "links/s"},
	{title: "Rows imported per second (longer is better)", heading: "import", figure: "rows/s"},
	{title: "Bytes in Redis per waiting link (shorter is better)", heading: "import", figure: "bytes"},
}

const (
	plotWidth, labelWidth, valueWidth = 760, 190, 80

	barHeight, barStep, titleStep, panelGap = 16, 22, 26, 18
)

// The page that shows the plot may be light or dark.
const plotStyle = `<style>
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600 }
.label { text-anchor: end }
.bar { fill: #8c959f }
.ours { fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #d1d7e0 }
  .bar { fill: #7d8590 }
  .ours { fill: #4493f8 }
}
</style>
`

// plot draws the medians as bars, in SVG.
func (r *results) plot() string {
	var body strings.Builder
	y := 0
	for _, p := range panels {
		whos := r.whos(p.heading)
		most := 0.0
		for _, who := range whos {
			v, _ := r.median(p.heading, who, p.figure)
			most = max(most, v)
		}
		if most == 0 {
			continue
		}
		y += titleStep
		fmt.Fprintf(&body, "<text class=\"title\" x=\"0\" y=\"%d\">%s</text>\n", y-8, html.EscapeString(p.title))
		for _, who := range whos {
			v, ok := r.median(p.heading, who, p.figure)
			if !ok {
				continue
			}
			class := "bar"
			if who == product {
				class = "bar ours"
			}
			width := v / most * (plotWidth - labelWidth - valueWidth)
			fmt.Fprintf(&body, "<text class=\"label\" x=\"%d\" y=\"%d\">%s</text>", labelWidth-8, y+barHeight-4, html.EscapeString(who))
			fmt.Fprintf(&body, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" rx=\"2\"/>", class, labelWidth, y, max(width, 1), barHeight)
			fmt.Fprintf(&body, "<text x=\"%.1f\" y=\"%d\">%s</text>\n", labelWidth+width+6, y+barHeight-4, html.EscapeString(number(v)))
			y += barStep
		}
		y += panelGap
	}
	return fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %[1]d %[2]d\" role=\"img\" aria-label=\"linkcancel beside its peers\">\n",
		plotWidth, y) + plotStyle + body.String() + "</svg>\n"
}
