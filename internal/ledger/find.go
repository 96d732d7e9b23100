package ledger

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// findScript looks for links in some chunks of a batch.
//
// KEYS[1] batch   ARGV first chunk, chunks, links…
// Returns three numbers for each link that is found: its index from 1, its chunk, and its position.
var findScript = redis.NewScript(`
local found, first, chunks = {}, tonumber(ARGV[1]), tonumber(ARGV[2])
for n = first, first + chunks - 1 do
  local links = redis.call('GET', KEYS[1] .. ':m:' .. n)
  if links then
    links = '\n' .. links .. '\n'
    for i = 3, #ARGV do
      local at = string.find(links, '\n' .. ARGV[i] .. '\n', 1, true)
      if at then
        local _, before = string.gsub(string.sub(links, 1, at), '\n', '')
        found[#found + 1] = i - 2
        found[#found + 1] = n
        found[#found + 1] = before - 1
      end
    end
  end
end
return found
`)

// findChunks is how many chunks one call searches: 1 MB of links, which takes a few milliseconds.
// Redis does nothing else meanwhile.
const findChunks = 25

// Find returns the positions of links in the manifest of a batch, without those that it does not have.
func (l *Ledger) Find(ctx context.Context, b Batch, links []string) (map[string]int, error) {
	found := map[string]int{}
	step := max(1, findChunks/max(1, len(links)))
	for first := 0; first < b.Chunks && len(found) < len(links); first += step {
		args := []any{first, min(step, b.Chunks-first)}
		for _, link := range links {
			args = append(args, link)
		}
		reply, err := findScript.Run(ctx, l.rdb, []string{keyBatch(b.ID)}, args...).Int64Slice()
		if err != nil {
			return nil, fmt.Errorf("find links in batch %s: %w", b.ID, err)
		}
		for i := 0; i+2 < len(reply); i += 3 {
			found[links[reply[i]-1]] = int(reply[i+1])*ChunkLinks + int(reply[i+2])
		}
	}
	return found, nil
}

// LinkAt reads everything about the link at a position of the manifest, except its id.
func (l *Ledger) LinkAt(ctx context.Context, id string, position int) (LinkRecord, error) {
	chunk, at := position/ChunkLinks, position%ChunkLinks
	records, err := l.Records(ctx, id, chunk, at, 1)
	if err != nil {
		return LinkRecord{}, err
	}
	lr := LinkRecord{Record: records[0]}
	if lr.Record.Plains == 0 && lr.Record.LinkStatus != 0 {
		statuses, err := l.linkStatuses(ctx, id)
		if err != nil {
			return LinkRecord{}, err
		}
		lr.LinkStatus = statuses[lr.Record.LinkStatus]
	}
	texts, err := l.ErrorTexts(ctx, id, chunk, []int{at})
	if err != nil {
		return LinkRecord{}, err
	}
	lr.Error = texts[0]
	return lr, nil
}

// PendingBefore counts the links without an outcome before a position of the manifest.
func (l *Ledger) PendingBefore(ctx context.Context, b Batch, position int) (n int64, err error) {
	// The links before the low-water mark have their outcomes.
	for chunk := int(b.Low) / ChunkLinks; chunk*ChunkLinks < position; chunk++ {
		records, err := l.Records(ctx, b.ID, chunk, 0, min(ChunkLinks, position-chunk*ChunkLinks))
		if err != nil {
			return 0, err
		}
		for _, r := range records {
			if r.Outcome == None {
				n++
			}
		}
	}
	return n, nil
}
