package ledger

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// findScript looks for links in some chunks of a batch.
//
// KEYS[1] batch   ARGV first chunk, chunks, then of each link: its id, and its bytes if it can be packed
// Returns three numbers for each link that is found: its index from 1, its chunk, and its position.
var findScript = redis.NewScript(`
-- Returns the position of an id in a packed chunk, or nil. Its bytes may also be the end of one id and
-- the beginning of the next.
local function packed_position(chunk, packed)
  if packed == '' then return nil end
  local at = 1
  repeat
    at = string.find(chunk, packed, at + 1, true)
  until not at or at % 16 == 2
  return at and (at - 2) / 16
end

-- Returns the position of an id between newlines, or nil.
local function position(links, id)
  local at = string.find(links, '\n' .. id .. '\n', 1, true)
  if not at then return nil end
  local _, before = string.gsub(string.sub(links, 1, at), '\n', '')
  return before - 1
end

local found, first, chunks = {}, tonumber(ARGV[1]), tonumber(ARGV[2])
for n = first, first + chunks - 1 do
  local chunk = redis.call('GET', KEYS[1] .. ':m:' .. n)
  if chunk then
    local packed = string.byte(chunk, 1) == 1
    if not packed then chunk = '\n' .. chunk .. '\n' end
    for i = 3, #ARGV, 2 do
      local at
      if packed then at = packed_position(chunk, ARGV[i + 1]) else at = position(chunk, ARGV[i]) end
      if at then
        found[#found + 1] = (i - 1) / 2
        found[#found + 1] = n
        found[#found + 1] = at
      end
    end
  end
end
return found
`)

// findChunks is how many chunks one call searches: up to 1 MB of links, which takes a few milliseconds.
// Redis does nothing else meanwhile.
const findChunks = 25

// Find returns the positions of links in the manifest of a batch, without those that it does not have.
func (l *Ledger) Find(ctx context.Context, b Batch, links []string) (map[string]int, error) {
	found := map[string]int{}
	step := max(1, findChunks/max(1, len(links)))
	for first := 0; first < b.Chunks && len(found) < len(links); first += step {
		args := []any{first, min(step, b.Chunks-first)}
		for _, link := range links {
			packed, _ := packID(nil, link)
			args = append(args, link, packed)
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
