package importer

import (
	"context"
	"fmt"
	"io"

	"linkcancel/internal/ledger"
)

// picked is a Source of some links of a batch. It takes 4 bytes a link.
type picked struct {
	ctx    context.Context // Source.Next has no context
	ledger *ledger.Ledger
	parent ledger.Batch

	positions []uint32 // in the parent's manifest
	next      int
	chunk     int // the chunk of links; -1: none
	links     []string
}

// link reads the link at a position of the parent's manifest.
func (p *picked) link(position int) (string, error) {
	if n := position / ledger.ChunkLinks; n != p.chunk {
		links, err := p.ledger.Links(p.ctx, p.parent.ID, n)
		if err != nil {
			return "", err
		}
		p.chunk, p.links = n, links
	}
	at := position % ledger.ChunkLinks
	if at >= len(p.links) {
		return "", fmt.Errorf("chunk %d of batch %s has %d links, not %d", p.chunk, p.parent.ID, len(p.links), p.parent.ChunkLen(p.chunk))
	}
	return p.links[at], nil
}

// Links returns how many links there are.
func (p *picked) Links() int64 { return int64(len(p.positions)) }

// Next is part of Source.
func (p *picked) Next() (string, error) {
	if p.next == len(p.positions) {
		return "", io.EOF
	}
	link, err := p.link(int(p.positions[p.next]))
	if err != nil {
		return "", err
	}
	p.next++
	return link, nil
}

// Stats is part of Source.
func (p *picked) Stats() Stats { return Stats{Rows: int64(p.next), Links: int64(p.next)} }
