package tracing

import "go.opentelemetry.io/otel/attribute"

// Attributes of our spans; docs/tracing.md tells them all.
const (
	Batch      = attribute.Key("linkcancel.batch")
	Source     = attribute.Key("linkcancel.source")      // of a batch: import, run or sweep
	Links      = attribute.Key("linkcancel.links")       // how many
	Slice      = attribute.Key("linkcancel.slice")       // its place in the batch: chunk:index
	Again      = attribute.Key("linkcancel.again")       // how often a slice was enqueued again after a crash
	Later      = attribute.Key("linkcancel.later")       // why a slice goes back into the queue
	Link       = attribute.Key("linkcancel.link")        // the id of a link
	Outcome    = attribute.Key("linkcancel.outcome")     // of a link, or pending
	Attempts   = attribute.Key("linkcancel.attempts")    // that a link has used up
	Ambiguous  = attribute.Key("linkcancel.ambiguous")   // an attempt may have been applied though no clear answer came
	LinkStatus = attribute.Key("linkcancel.link_status") // as the API told it
	Page       = attribute.Key("linkcancel.page")        // of the list; 0: asked for without a number
	Sweep      = attribute.Key("linkcancel.sweep")       // which of the schedule's
)
