package ledger

import (
	"cmp"
	"context"
	"errors"
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
// and of its latest indexed one. The leader adds what is missing, and so does each reader of the index
// before it reads.
// Adding an entry again changes nothing.

// maxIndexed is how many entries the index keeps of people, and how many automatic ones.
const maxIndexed = 10_000

// deletedFor is how long the history of a deleted batch is looked at for the index.
const deletedFor = time.Minute

// fleetOwners are the owners of histories that are not of a batch.
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

var markScript = redis.NewScript(`
-- Notes how far a batch's history has been used. An earlier reading does not move that back.
-- KEYS[1] batch   ARGV field, number of the latest entry, time of creation
local h = redis.call('HMGET', KEYS[1], 'created', ARGV[1])
if h[1] ~= ARGV[3] or tonumber(h[2] or 0) >= tonumber(ARGV[2]) then return 0 end
return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
`)

// IndexBatch adds the new entries of a batch's history to the index. b is the batch as it was just
// read.
func (l *Ledger) IndexBatch(ctx context.Context, b Batch) error {
	if b.History <= b.Indexed {
		return nil
	}
	latest, err := l.index(ctx, b.ID, b.Indexed)
	if err == nil {
		err = markScript.Run(ctx, l.rdb, []string{keyBatch(b.ID)}, "indexed", latest, b.Incarnation()).Err()
	}
	if err != nil {
		return fmt.Errorf("index the history of batch %s: %w", b.ID, err)
	}
	return nil
}

// LogBatch calls log with each entry of a batch's history that no leader has logged, and notes that.
// b is the batch as it was just read.
func (l *Ledger) LogBatch(ctx context.Context, b Batch, log func(history.Entry) error) error {
	if b.History <= b.Logged {
		return nil
	}
	if err := l.newEntries(ctx, b, b.Logged, log); err != nil {
		return err
	}
	if err := markScript.Run(ctx, l.rdb, []string{keyBatch(b.ID)}, "logged", b.History, b.Incarnation()).Err(); err != nil {
		return fmt.Errorf("note the log of batch %s: %w", b.ID, err)
	}
	return nil
}

// newEntries calls see with the entries of a batch's history after one, up to the latest when b was
// read. b says nothing about what is newer. Entries of a deleted batch that had the id are left out.
func (l *Ledger) newEntries(ctx context.Context, b Batch, after int64, see func(history.Entry) error) error {
	entries, err := l.History(ctx, b.ID)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Action == history.Delete && e.Number < b.History {
			after = max(after, e.Number)
		}
	}
	for _, e := range entries {
		if e.Number > after && e.Number <= b.History {
			if err := see(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// NotifyBatch calls see with each entry of a batch's history that was not seen by an earlier call, then
// put, and notes that. b is the batch as it was just read.
func (l *Ledger) NotifyBatch(ctx context.Context, b Batch, see func(history.Entry) error, put func() error) error {
	if err := l.newEntries(ctx, b, b.Notified, see); err != nil {
		return err
	}
	if err := put(); err != nil {
		return err
	}
	if err := markScript.Run(ctx, l.rdb, []string{keyBatch(b.ID)}, "notified", b.History, b.Incarnation()).Err(); err != nil {
		return fmt.Errorf("note the notifications of batch %s: %w", b.ID, err)
	}
	return nil
}

// NotifySweeps calls put with the entries of the sweeps' history that were not seen by an earlier call,
// and notes that.
func (l *Ledger) NotifySweeps(ctx context.Context, put func([]history.Entry) error) error {
	const field = "notified " + history.Sweep
	pipe := l.rdb.Pipeline()
	seen, latest := pipe.HGet(ctx, keyIndexed, field), pipe.ZRevRange(ctx, history.Key(history.Sweep), 0, 0)
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("read the history of the sweeps: %w", err)
	}
	newest, err := parseHistory(history.Sweep, latest.Val())
	if err != nil || len(newest) == 0 || seen.Val() == mark(newest[0]) {
		return err
	}
	entries, err := l.History(ctx, history.Sweep)
	if err != nil {
		return err
	}
	text, _, _ := strings.Cut(seen.Val(), " ")
	known := number(text)
	if known >= newest[0].Number { // Redis lost some
		known = 0
	}
	entries = slices.DeleteFunc(entries, func(e history.Entry) bool { return e.Number <= known })
	if err := put(entries); err != nil {
		return err
	}
	if err := l.rdb.HSet(ctx, keyIndexed, field, mark(newest[0])).Err(); err != nil {
		return fmt.Errorf("note the notifications of the sweeps: %w", err)
	}
	return nil
}

// IndexFleet adds what is new about rate limit, API, sweeps and deleted batches to the index.
func (l *Ledger) IndexFleet(ctx context.Context) error { return l.followFleet(ctx, "", nil) }

// LogFleet calls log with what is new since the last call by any process, and indexes it.
func (l *Ledger) LogFleet(ctx context.Context, log func(history.Entry)) error {
	return l.followFleet(ctx, "logged ", log)
}

// followFleet follows the histories that are not of a batch in the lists. A field of keyIndexed, with
// the prefix, has the latest entry that was seen.
func (l *Ledger) followFleet(ctx context.Context, prefix string, log func(history.Entry)) error {
	pipe := l.rdb.Pipeline()
	seen := pipe.HGetAll(ctx, keyIndexed)
	deleted := pipe.ZRangeWithScores(ctx, keyDeleted, 0, -1)
	var newest [len(fleetOwners)]*redis.StringSliceCmd
	for i, owner := range fleetOwners {
		newest[i] = pipe.ZRevRange(ctx, history.Key(owner), 0, 0)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("read the histories of the fleet: %w", err)
	}
	for i, owner := range fleetOwners {
		latest, err := parseHistory(owner, newest[i].Val())
		if err != nil {
			return err
		}
		before := seen.Val()[prefix+owner]
		if len(latest) == 0 || before == mark(latest[0]) {
			continue
		}
		text, _, _ := strings.Cut(before, " ")
		known := number(text)
		if known >= latest[0].Number { // Redis lost some
			known = 0
		}
		if err := l.follow(ctx, owner, known, log, nil); err != nil {
			return err
		}
		if err := l.rdb.HSet(ctx, keyIndexed, prefix+owner, mark(latest[0])).Err(); err != nil {
			return fmt.Errorf("index the history of the fleet: %w", err)
		}
	}
	for _, z := range deleted.Val() {
		id, _ := z.Member.(string)
		field := prefix + "deleted " + id
		entries, err := l.History(ctx, id)
		if err != nil {
			return err
		}
		if len(entries) > 0 && seen.Val()[field] != mark(entries[len(entries)-1]) {
			only := func(e history.Entry) bool { return e.Action == history.Delete }
			if err := l.follow(ctx, id, number(strings.SplitN(seen.Val()[field], " ", 2)[0]), log, only); err != nil {
				return err
			}
			if err := l.rdb.HSet(ctx, keyIndexed, field, mark(entries[len(entries)-1])).Err(); err != nil {
				return fmt.Errorf("index the history of batch %s: %w", id, err)
			}
		}
		if log != nil && time.Since(time.UnixMilli(int64(z.Score))) > deletedFor {
			pipe := l.rdb.Pipeline()
			pipe.ZRem(ctx, keyDeleted, id)
			pipe.HDel(ctx, keyIndexed, "deleted "+id, field)
			if _, err := pipe.Exec(ctx); err != nil {
				return fmt.Errorf("index the history of batch %s: %w", id, err)
			}
		}
	}
	return nil
}

// follow indexes the entries of a history after a number, and logs those that are wanted.
func (l *Ledger) follow(ctx context.Context, owner string, after int64, log func(history.Entry), wanted func(history.Entry) bool) error {
	if _, err := l.index(ctx, owner, after); err != nil {
		return fmt.Errorf("index the history of %s: %w", owner, err)
	}
	if log == nil {
		return nil
	}
	entries, err := l.History(ctx, owner)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Number > after && (wanted == nil || wanted(e)) {
			log(e)
		}
	}
	return nil
}

// mark identifies an entry of a history.
func mark(e history.Entry) string { return fmt.Sprintf("%d %d", e.Number, e.Time.UnixMilli()) }

// index adds the entries of a history after a number to the index. It returns the number of the
// latest. What is there already stays as it is.
func (l *Ledger) index(ctx context.Context, owner string, after int64) (latest int64, err error) {
	members, err := l.rdb.ZRange(ctx, history.Key(owner), 0, -1).Result()
	if err != nil {
		return 0, err
	}
	entries, err := parseHistory(owner, members)
	if err != nil || len(entries) == 0 {
		return after, err
	}
	pipe := l.rdb.Pipeline()
	for i, e := range entries {
		if e.Number <= after {
			continue
		}
		key := keyPeople
		if e.Auto {
			key = keyAuto
		}
		pipe.ZAddNX(ctx, key, redis.Z{Score: float64(e.Time.UnixMilli()), Member: owner + " " + members[i]})
	}
	if pipe.Len() > 0 {
		if _, err := pipe.Exec(ctx); err != nil {
			return 0, err
		}
	}
	return entries[len(entries)-1].Number, nil
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
		if err := l.IndexBatch(ctx, b); err != nil {
			return nil, err
		}
	}
	if err := l.IndexFleet(ctx); err != nil {
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

// maxVerifications is how many verifications a batch remembers.
const maxVerifications = 10

var verificationScript = redis.NewScript(`
-- Notes that a batch is verified.
-- KEYS[1] batch   ARGV when it was created, ms; id of the verification, or -; how many it remembers
local h = redis.call('HMGET', KEYS[1], 'created', 'verifications')
if tonumber(h[1]) ~= tonumber(ARGV[1]) then return redis.error_reply('NOBATCH no such batch') end
local ids = {}
for id in string.gmatch(h[2] or '', '%S+') do
  if id ~= ARGV[2] then ids[#ids + 1] = id end
end
ids[#ids + 1] = ARGV[2]
while #ids > tonumber(ARGV[3]) do table.remove(ids, 1) end
redis.call('HSET', KEYS[1], 'verifications', table.concat(ids, ' '))
return 1
`)

// NothingToVerify stands in Batch.Verifications for a verification without links.
const NothingToVerify = "-"

// AddVerification notes in a batch the id of a verification, or NothingToVerify.
func (l *Ledger) AddVerification(ctx context.Context, b Batch, id string) error {
	err := verificationScript.Run(ctx, l.rdb, []string{keyBatch(b.ID)}, b.Incarnation(), id, maxVerifications).Err()
	if err != nil {
		return fmt.Errorf("note the verification of batch %s: %w", b.ID, scriptError(err))
	}
	return nil
}

// VerificationsOf reads the verifications of a batch that are sealed, the oldest first.
func (l *Ledger) VerificationsOf(ctx context.Context, b Batch) ([]Batch, error) {
	ids := strings.Fields(b.Verifications)
	if len(ids) == 0 {
		return nil, nil
	}
	all, err := l.read(ctx, ids)
	return slices.DeleteFunc(all, func(v Batch) bool {
		return v.State == Importing || !v.Verifies() || v.Parent != b.ID || v.Created.Before(b.Created)
	}), err
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
