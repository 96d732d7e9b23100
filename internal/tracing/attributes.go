package tracing

import "go.opentelemetry.io/otel/attribute"

// Attributes of our spans, listed in docs/tracing.md.
const (
	Batch      = attribute.Key("linkcancel.batch")
	Source     = attribute.Key("linkcancel.source")      // of a batch: import, run or sweep
	Links      = attribute.Key("linkcancel.links")       // how many
	Slice      = attribute.Key("linkcancel.slice")       // chunk:index
	Again      = attribute.Key("linkcancel.again")       // redelivery count of a slice
	Later      = attribute.Key("linkcancel.later")       // why a slice goes back into the queue
	Link       = attribute.Key("linkcancel.link")        // the id of a link
	Outcome    = attribute.Key("linkcancel.outcome")     // of a link, or pending
	Attempts   = attribute.Key("linkcancel.attempts")    // of a link
	Ambiguous  = attribute.Key("linkcancel.ambiguous")   // an attempt may have been applied although no clear answer came
	LinkStatus = attribute.Key("linkcancel.link_status") // as the API spells it
	Page       = attribute.Key("linkcancel.page")        // of the list; 0 if requested without a number
	Sweep      = attribute.Key("linkcancel.sweep")       // scheduled time
)
