package dashboard

import "strings"

// source is the datasource that the reader of the dashboard chose.
var source = Datasource{Type: "prometheus", UID: "${datasource}"}

func number(v float64) *float64 { return &v }

// option changes a panel that is being made.
type option func(*Panel)

// panel makes one; the layout gives it its place. noData is shown in place of a
// value when the queries return none.
func panel(kind string, width, height int, title, description, unit, noData string, options ...option) Panel {
	p := Panel{
		Type: kind, Title: title, Description: description,
		GridPos: GridPos{W: width, H: height}, Datasource: &source,
		FieldConfig: &FieldConfig{
			Defaults: Defaults{
				Unit: unit, NoValue: noData, Mappings: []map[string]any{},
				Color: map[string]any{"mode": "thresholds"},
			},
			Overrides: []Override{},
		},
	}
	for _, o := range options {
		o(&p)
	}
	return p
}

// stat shows the value of now. Queries are of the instant: over a range the last
// value of a series that has ended would stand for ever.
func stat(width int, title, description, unit, noData string, options ...option) Panel {
	p := panel("stat", width, 4, title, description, unit, noData, options...)
	p.Options = map[string]any{
		"reduceOptions": map[string]any{"values": false, "calcs": []string{"lastNotNull"}, "fields": ""},
		"orientation":   "auto", "textMode": "auto", "wideLayout": false, "colorMode": "background", "graphMode": "none",
		"justifyMode": "auto", "showPercentChange": false, "percentChangeColorMode": "standard",
	}
	if len(p.Targets) > 1 || strings.Contains(p.Targets[0].LegendFormat, "{{") {
		p.Options["textMode"] = "value_and_name"
	}
	if p.FieldConfig.Defaults.Thresholds == nil {
		neutral(&p)
	}
	for i := range p.Targets {
		p.Targets[i].Instant, p.Targets[i].Range = true, false
	}
	return p
}

// bars shows values of now side by side.
func bars(width, height int, title, description, unit, noData string, options ...option) Panel {
	p := stat(width, title, description, unit, noData, options...)
	p.Type, p.GridPos.H = "bargauge", height
	if p.FieldConfig.Defaults.Min == nil {
		p.FieldConfig.Defaults.Min = number(0) // else the shortest bar is nothing
	}
	p.Options = map[string]any{
		"reduceOptions": p.Options["reduceOptions"], "orientation": "horizontal", "displayMode": "basic", "valueMode": "text",
		"showUnfilled": false, "minVizWidth": 8, "minVizHeight": 16, "maxVizHeight": 300, "namePlacement": "left", "sizing": "auto",
		"legend": map[string]any{"showLegend": false, "displayMode": "list", "placement": "bottom", "calcs": []string{}},
	}
	return p
}

// graph shows values over time.
func graph(width int, title, description, unit, noData string, options ...option) Panel {
	p := panel("timeseries", width, 8, title, description, unit, noData, options...)
	d := &p.FieldConfig.Defaults
	d.Color = map[string]any{"mode": "palette-classic"}
	if d.Min == nil {
		d.Min = number(0)
	}
	custom := map[string]any{
		"drawStyle": "line", "lineInterpolation": "linear", "lineWidth": 1, "fillOpacity": 10, "gradientMode": "none",
		"showPoints": "never", "pointSize": 5, "spanNulls": false, "axisPlacement": "auto", "axisLabel": "", "scaleDistribution": map[string]any{"type": "linear"},
		"stacking": map[string]any{"mode": "none", "group": "A"}, "thresholdsStyle": map[string]any{"mode": "off"},
	}
	for k, v := range d.Custom {
		custom[k] = v
	}
	d.Custom = custom
	p.Options = map[string]any{
		"tooltip": map[string]any{"mode": "multi", "sort": "desc"},
		"legend":  map[string]any{"showLegend": true, "displayMode": "list", "placement": "bottom", "calcs": []string{}},
	}
	return p
}

// timeline shows states over time.
func timeline(width int, title, description, noData string, options ...option) Panel {
	p := panel("state-timeline", width, 8, title, description, "none", noData, options...)
	p.FieldConfig.Defaults.Custom = map[string]any{"lineWidth": 0, "fillOpacity": 70, "spanNulls": false}
	p.Options = map[string]any{
		"mergeValues": true, "showValue": "never", "alignValue": "left", "rowHeight": 0.9,
		"tooltip": map[string]any{"mode": "single", "sort": "none"},
		"legend":  map[string]any{"showLegend": false, "displayMode": "list", "placement": "bottom", "calcs": []string{}},
	}
	return p
}

// matrix is a table of the values of now, with a row for each value of one label
// and a column for each of another, in this order.
func matrix(width, height int, title, description, unit, noData, row, column string, columns []string, options ...option) Panel {
	p := panel("table", width, height, title, description, unit, noData, options...)
	p.FieldConfig.Defaults.Custom = map[string]any{"align": "auto", "cellOptions": map[string]any{"type": "auto"}, "filterable": false, "inspect": false}
	p.Options = map[string]any{"frameIndex": 0, "showHeader": true, "cellHeight": "sm", "footer": map[string]any{"show": false, "reducer": []string{"sum"}, "fields": ""}}
	corner := row + `\` + column // as the transformation calls the column of rows
	order := map[string]any{corner: 0}
	for i, c := range columns {
		order[c] = i + 1
	}
	p.Transformations = []map[string]any{
		{"id": "groupingToMatrix", "options": map[string]any{"columnField": column, "rowField": row, "valueField": "Value", "emptyValue": "zero"}},
		{"id": "organize", "options": map[string]any{"indexByName": order, "renameByName": map[string]any{corner: row}, "excludeByName": map[string]any{}}},
	}
	for i := range p.Targets {
		p.Targets[i].Instant, p.Targets[i].Range, p.Targets[i].Format = true, false, "table"
	}
	return p
}

func query(legend, expr string) option {
	return func(p *Panel) {
		p.Targets = append(p.Targets, Target{
			RefID: string(rune('A' + len(p.Targets))), Datasource: source, EditorMode: "code",
			Expr: strings.TrimSpace(expr), LegendFormat: legend, Format: "time_series", Range: true,
		})
	}
}

// steps colours by size: the first colour, then pairs of value and colour.
func steps(first string, more ...any) option {
	return func(p *Panel) {
		t := &Thresholds{Mode: "absolute", Steps: []Step{{Color: first}}}
		for i := 0; i < len(more); i += 2 {
			t.Steps = append(t.Steps, Step{Color: more[i+1].(string), Value: number(more[i].(float64))})
		}
		p.FieldConfig.Defaults.Thresholds = t
	}
}

func neutral(p *Panel) { steps("blue")(p) }

// said shows words in place of values: pairs of value and word.
func said(words ...string) option {
	return func(p *Panel) {
		p.FieldConfig.Defaults.Mappings = append(p.FieldConfig.Defaults.Mappings, mapping(words...))
	}
}

func mapping(words ...string) map[string]any {
	options := map[string]any{}
	for i := 0; i < len(words); i += 2 {
		options[words[i]] = map[string]any{"text": words[i+1], "index": i / 2}
	}
	return map[string]any{"type": "value", "options": options}
}

// as changes properties of one series, named by its legend.
func as(series string, properties ...any) option {
	return func(p *Panel) {
		o := Override{Matcher: map[string]any{"id": "byName", "options": series}}
		for i := 0; i < len(properties); i += 2 {
			o.Properties = append(o.Properties, map[string]any{"id": properties[i], "value": properties[i+1]})
		}
		p.FieldConfig.Overrides = append(p.FieldConfig.Overrides, o)
	}
}

func fixed(color string) map[string]any {
	return map[string]any{"mode": "fixed", "fixedColor": color}
}

// colours gives series their colours: pairs of legend and colour.
func colours(pairs ...string) option {
	return func(p *Panel) {
		for i := 0; i < len(pairs); i += 2 {
			as(pairs[i], "color", fixed(pairs[i+1]))(p)
		}
	}
}

// outcomeColours are the same wherever outcomes are shown, alone or after a word.
func outcomeColours(word string) option {
	pairs := []string{"cancelled", "green", "already_cancelled", "dark-green", "not_found", "blue", "not_cancellable", "yellow",
		"rejected", "orange", "failed", "red", "aborted", "purple", "pending", "#808080"}
	for i := 0; i < len(pairs); i += 2 {
		pairs[i] = word + pairs[i]
	}
	return colours(pairs...)
}

// warned shows the numbers of a column of a table in red, but for 0.
func warned(column string) option {
	return as(column, "custom.cellOptions", map[string]any{"type": "color-text"},
		"thresholds", Thresholds{Mode: "absolute", Steps: []Step{{Color: "text"}, {Color: "red", Value: number(1)}}})
}

func custom(pairs ...any) option {
	return func(p *Panel) {
		d := &p.FieldConfig.Defaults
		if d.Custom == nil {
			d.Custom = map[string]any{}
		}
		for i := 0; i < len(pairs); i += 2 {
			d.Custom[pairs[i].(string)] = pairs[i+1]
		}
	}
}

func stacked(p *Panel) {
	custom("stacking", map[string]any{"mode": "normal", "group": "A"}, "fillOpacity", 60, "lineWidth", 0)(p)
}

func decimals(n int) option {
	return func(p *Panel) { p.FieldConfig.Defaults.Decimals = &n }
}

func between(least, most float64) option {
	return func(p *Panel) { p.FieldConfig.Defaults.Min, p.FieldConfig.Defaults.Max = number(least), number(most) }
}

// smooth makes $__rate_interval at least so long.
func smooth(interval string) option { return func(p *Panel) { p.Interval = interval } }

// row is a head and the panels under it.
type row struct {
	title  string
	panels []Panel
}

// layout gives all panels their ids and places: from left to right, as many as
// fit beside each other.
func layout(rows []row) []Panel {
	var all []Panel
	y, id := 0, 0
	next := func() int { id++; return id }
	for _, r := range rows {
		open := false
		all = append(all, Panel{ID: next(), Type: "row", Title: r.title, Collapsed: &open, Panels: &[]Panel{}, GridPos: GridPos{H: 1, W: 24, Y: y}})
		y++
		x, tallest := 0, 0
		for _, p := range r.panels {
			if x+p.GridPos.W > 24 {
				x, y, tallest = 0, y+tallest, 0
			}
			p.ID, p.GridPos.X, p.GridPos.Y = next(), x, y
			x, tallest = x+p.GridPos.W, max(tallest, p.GridPos.H)
			all = append(all, p)
		}
		y += tallest
	}
	return all
}
