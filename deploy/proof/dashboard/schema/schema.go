// Package schema holds a dashboard to the types of Grafana.
package schema

import (
	"errors"
	"fmt"

	"github.com/grafana/grafana-foundation-sdk/go/bargauge"
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/variants"
	grafana "github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/statetimeline"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// Check reads a dashboard into Grafana's own types: a field, an option of a
// panel or a word that Grafana does not know is an error.
func Check(b []byte) error {
	known := cog.NewRuntime()
	for _, panel := range []variants.PanelcfgConfig{
		bargauge.VariantConfig(), stat.VariantConfig(), statetimeline.VariantConfig(), table.VariantConfig(), timeseries.VariantConfig(),
	} {
		known.RegisterPanelcfgVariant(panel)
	}
	known.RegisterDataqueryVariant(prometheus.VariantConfig())
	//lint:ignore SA1019 the file has this form, which every Grafana reads
	var d grafana.Dashboard
	if err := some(d.UnmarshalJSONStrict(b)); err != nil {
		return fmt.Errorf("read the dashboard as Grafana does: %w", err)
	}
	if err := some(d.Validate()); err != nil {
		return fmt.Errorf("validate the dashboard: %w", err)
	}
	return nil
}

// some is nil for an empty list of errors, which the types return as an error.
func some(err error) error {
	var all cog.BuildErrors
	if errors.As(err, &all) && len(all) == 0 {
		return nil
	}
	return err
}
