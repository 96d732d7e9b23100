package ledger

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/history"
)

// A history is written in the hash slot of its owner. The index of all histories is another key, so
// on a cluster no script can write both. Instead each batch stores the number of its latest entry
// and of its latest indexed one, and whoever reads the index, or leads, first adds what is missing.
// Adding an entry again changes nothing.

// maxIndexed is how many entries the index keeps of people, and how many automatic ones.
const maxIndexed = 10_000

// deletedFor is how long the history of a deleted batch is looked at for the index.
const deletedFor = time.Minute

// fleetOwners are the owners of histories that are no batches.
var fleetOwners = [...]string{history.Rate, history.API, history.Sweep}

// History reads the history of a batch, the oldest entry first. It is also there for a batch that
// was deleted, as long as it is kept.
func (l *Ledger) History(ctx context.Context, id string) ([]history.Entry, error) {
	members, err := l.rdb.ZRange(ctx, history.Key(id), 0, -1).Result()
	if err != nil {
		return nil, fmt.Errorf("read the history of batch %s: %w", id, err)
	}
	return parseHistory(id, members)
}

func parseHistory(owner string, members []string) ([]history.Entry, error) {
	entries := make([]history.Entry, len(members))
	for i, member := range members {
		var err error
		if entries[i], err = history.Parse(owner, member); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

var indexedScript = redis.NewScript(`
-- KEYS[1] batch   ARGV number of the latest indexed entry
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
return redis.call('HSET', KEYS[1], 'indexed', ARGV[1])
`)

// IndexBatch adds the new entries of a batch's history to the index. It returns those that nobody
// has added before. b is the batch as it was just read.
func (l *Ledger) IndexBatch(ctx context.Context, b Batch) ([]history.Entry, error) {
	if b.History <= b.Indexed {
		return nil, nil
	}
	added, latest, err := l.index(ctx, b.ID, b.Indexed)
	if err == nil {
		err = indexedScript.Run(ctx, l.rdb, []string{keyBatch(b.ID)}, latest).Err()
	}
	if err != nil {
		return nil, fmt.Errorf("index the history of batch %s: %w", b.ID, err)
	}
	return added, nil
}

// IndexFleet does the same for rate limit, API, sweeps and deleted batches.
func (l *Ledger) IndexFleet(ctx context.Context) (added []history.Entry, err error) {
	pipe := l.rdb.Pipeline()
	indexed := pipe.HGetAll(ctx, keyIndexed)
	deleted := pipe.ZRangeWithScores(ctx, keyDeleted, 0, -1)
	var newest [len(fleetOwners)]*redis.StringSliceCmd
	for i, owner := range fleetOwners {
		newest[i] = pipe.ZRevRange(ctx, history.Key(owner), 0, 0)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fmt.Errorf("read the histories of the fleet: %w", err)
	}
	for i, owner := range fleetOwners {
		latest, err := parseHistory(owner, newest[i].Val())
		if err != nil {
			return nil, err
		}
		before := indexed.Val()[owner]
		if len(latest) == 0 || before == mark(latest[0]) {
			continue
		}
		text, _, _ := strings.Cut(before, " ")
		known := number(text)
		if known >= latest[0].Number { // Redis lost some
			known = 0
		}
		some, _, err := l.index(ctx, owner, known)
		if err == nil {
			err = l.rdb.HSet(ctx, keyIndexed, owner, mark(latest[0])).Err()
		}
		if err != nil {
			return nil, fmt.Errorf("index the history of the fleet: %w", err)
		}
		added = append(added, some...)
	}
	for _, z := range deleted.Val() {
		id, _ := z.Member.(string)
		some, _, err := l.index(ctx, id, 0)
		if err == nil && time.Since(time.UnixMilli(int64(z.Score))) > deletedFor {
			err = l.rdb.ZRem(ctx, keyDeleted, id).Err()
		}
		if err != nil {
			return nil, fmt.Errorf("index the history of batch %s: %w", id, err)
		}
		added = append(added, some...)
	}
	return added, nil
}

// mark identifies an entry of a history.
func mark(e history.Entry) string { return fmt.Sprintf("%d %d", e.Number, e.Time.UnixMilli()) }

// index adds the entries of a history after a number to the index. It returns those that were not
// there, and the number of the latest.
func (l *Ledger) index(ctx context.Context, owner string, after int64) (added []history.Entry, latest int64, err error) {
	members, err := l.rdb.ZRange(ctx, history.Key(owner), 0, -1).Result()
	if err != nil {
		return nil, 0, err
	}
	entries, err := parseHistory(owner, members)
	if err != nil || len(entries) == 0 {
		return nil, after, err
	}
	latest = entries[len(entries)-1].Number
	known := 0
	for known < len(entries) && entries[known].Number <= after {
		known++
	}
	entries, members = entries[known:], members[known:]
	if len(entries) == 0 {
		return nil, latest, nil
	}
	pipe := l.rdb.Pipeline()
	replies := make([]*redis.IntCmd, len(entries))
	for i, e := range entries {
		key := keyPeople
		if e.Auto {
			key = keyAuto
		}
		replies[i] = pipe.ZAddNX(ctx, key, redis.Z{Score: float64(e.Time.UnixMilli()), Member: owner + " " + members[i]})
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, 0, err
	}
	for i, e := range entries {
		if replies[i].Val() == 1 {
			added = append(added, e)
		}
	}
	return added, latest, nil
}

// TrimIndex removes old entries from the index.
func (l *Ledger) TrimIndex(ctx context.Context, keep time.Duration) error {
	now, err := l.Now(ctx)
	if err != nil {
		return fmt.Errorf("trim the index of histories: %w", err)
	}
	pipe := l.rdb.Pipeline()
	for _, key := range []string{keyPeople, keyAuto} {
		pipe.ZRemRangeByRank(ctx, key, 0, -maxIndexed-1)
		pipe.ZRemRangeByScore(ctx, key, "-inf", strconv.FormatInt(now.Add(-keep).UnixMilli(), 10))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("trim the index of histories: %w", err)
	}
	return nil
}

// Activity reads the newest entries of all histories, the newest first. 0 means all.
func (l *Ledger) Activity(ctx context.Context, most int) ([]history.Entry, error) {
	open, err := l.Unfinished(ctx)
	if err != nil {
		return nil, err
	}
	for _, b := range open {
		if _, err := l.IndexBatch(ctx, b); err != nil {
			return nil, err
		}
	}
	if _, err := l.IndexFleet(ctx); err != nil {
		return nil, err
	}
	pipe := l.rdb.Pipeline()
	replies := []*redis.StringSliceCmd{
		pipe.ZRevRange(ctx, keyPeople, 0, int64(most)-1), pipe.ZRevRange(ctx, keyAuto, 0, int64(most)-1),
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fmt.Errorf("read the index of histories: %w", err)
	}
	var entries []history.Entry
	for _, r := range replies {
		for _, member := range r.Val() {
			e, err := history.ParseIndexed(member)
			if err != nil {
				return nil, err
			}
			entries = append(entries, e)
		}
	}
	slices.SortStableFunc(entries, func(a, b history.Entry) int {
		return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(b.Number, a.Number))
	})
	if most > 0 && len(entries) > most {
		entries = entries[:most]
	}
	return entries, nil
}

var archivedScript = redis.NewScript(history.Lua + `
-- Marks a batch as archived.
-- KEYS[1] batch  KEYS[2] history   ARGV entry
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if redis.call('HSETNX', KEYS[1], 'archived', now) == 1 then
  redis.call('HSET', KEYS[1], 'history', add_history(KEYS[2], now, cjson.decode(ARGV[1])))
end
return 1
`)

// MarkArchived notes that the report of a batch is archived. where says in which folder. It does
// nothing if that is noted already, or if the batch is gone.
func (l *Ledger) MarkArchived(ctx context.Context, id string, by history.By, where string) error {
	if err := archivedScript.Run(ctx, l.rdb, []string{keyBatch(id), history.Key(id)}, by.Change(history.Archive, where)).Err(); err != nil {
		return fmt.Errorf("note the archive of batch %s: %w", id, err)
	}
	return nil
}
