package report

import "linkcancel/internal/linkcsv"

// Index finds the position of a link among millions, in about 25 bytes a link.
type Index = linkcsv.Index

// NewIndex makes an index with room for capacity links; it grows when more are
// added.
func NewIndex(capacity int) *Index { return linkcsv.NewIndex(capacity) }
