package ledger

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	keyOutbox    = "lc:{lc:notify}:o" // hash: deliveries that wait, by receiver and event
	keyDelivered = "lc:{lc:notify}:d" // sorted set: deliveries that ended, by time, ms
	maxDelivered = 1000
)

// Delivery is a notification for one receiver. It waits in the outbox until it is delivered, or given
// up.
type Delivery struct {
	ID       string    `json:"id"` // of the event, the same for each receiver and attempt
	Type     string    `json:"type"`
	Receiver string    `json:"receiver"`
	Subject  string    `json:"subject"` // deliveries about one subject are made in the order of Number
	Number   int64     `json:"number"`
	Body     string    `json:"body"`
	Created  time.Time `json:"created"` // the time of the event
	Attempts int       `json:"attempts"`
	Next     time.Time `json:"next"`   // no attempt before
	Status   int       `json:"status"` // HTTP status of the last answer; 0: none
	Error    string    `json:"error"`  // of the last attempt
	Ended    time.Time `json:"ended"`  // zero: it waits
	OK       bool      `json:"ok"`     // it was delivered
}

func (d Delivery) field() string { return d.Receiver + " " + d.ID }

// MarshalBinary makes a Delivery an argument of a script.
func (d Delivery) MarshalBinary() ([]byte, error) { return json.Marshal(d) }

var putScript = redis.NewScript(`
-- Adds deliveries that are not there.
-- KEYS[1] outbox   ARGV field, delivery, …
for i = 1, #ARGV, 2 do redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1]) end
return 1
`)

// PutDeliveries adds deliveries to the outbox. Those that are there stay as they are.
func (l *Ledger) PutDeliveries(ctx context.Context, all []Delivery) error {
	var args []any
	for _, d := range all {
		args = append(args, d.field(), d)
	}
	if err := putScript.Run(ctx, l.rdb, []string{keyOutbox}, args...).Err(); err != nil {
		return fmt.Errorf("put notifications into the outbox: %w", err)
	}
	return nil
}

// Deliveries reads the outbox, the oldest delivery first.
func (l *Ledger) Deliveries(ctx context.Context) ([]Delivery, error) {
	h, err := l.rdb.HGetAll(ctx, keyOutbox).Result()
	if err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	var all []Delivery
	for field, doc := range h {
		var d Delivery
		if err := json.Unmarshal([]byte(doc), &d); err != nil {
			return nil, fmt.Errorf("read %q of the outbox: %w", field, err)
		}
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b Delivery) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Number, b.Number), cmp.Compare(a.Receiver, b.Receiver))
	})
	return all, nil
}

var saveScript = redis.NewScript(`
-- Changes a delivery that waits.
-- KEYS[1] outbox   ARGV field, delivery
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
return 1
`)

// SaveDelivery notes an attempt that failed.
func (l *Ledger) SaveDelivery(ctx context.Context, d Delivery) error {
	if err := saveScript.Run(ctx, l.rdb, []string{keyOutbox}, d.field(), d).Err(); err != nil {
		return fmt.Errorf("note the attempt of a notification: %w", err)
	}
	return nil
}

var endDeliveryScript = redis.NewScript(`
-- Takes a delivery out of the outbox.
-- KEYS[1] outbox  KEYS[2] deliveries that ended   ARGV field, delivery, time in ms, how many are kept
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[2])
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - tonumber(ARGV[4]))
return 1
`)

// EndDelivery takes a delivery that has ended out of the outbox. It may be repeated.
func (l *Ledger) EndDelivery(ctx context.Context, d Delivery) error {
	d.Body = ""
	err := endDeliveryScript.Run(ctx, l.rdb, []string{keyOutbox, keyDelivered}, d.field(), d, d.Ended.UnixMilli(), maxDelivered).Err()
	if err != nil {
		return fmt.Errorf("note the end of a notification: %w", err)
	}
	return nil
}

// Delivered reads the deliveries that ended last, the newest first. 0 means all that are kept.
func (l *Ledger) Delivered(ctx context.Context, most int) ([]Delivery, error) {
	docs, err := l.rdb.ZRevRange(ctx, keyDelivered, 0, int64(most)-1).Result()
	if err != nil {
		return nil, fmt.Errorf("read earlier notifications: %w", err)
	}
	all := make([]Delivery, len(docs))
	for i, doc := range docs {
		if err := json.Unmarshal([]byte(doc), &all[i]); err != nil {
			return nil, fmt.Errorf("read an earlier notification: %w", err)
		}
	}
	return all, nil
}

// TrimDelivered removes deliveries that ended longer ago than keep.
func (l *Ledger) TrimDelivered(ctx context.Context, keep time.Duration) error {
	now, err := l.Now(ctx)
	if err == nil {
		err = l.rdb.ZRemRangeByScore(ctx, keyDelivered, "-inf", strconv.FormatInt(now.Add(-keep).UnixMilli(), 10)).Err()
	}
	if err != nil {
		return fmt.Errorf("trim earlier notifications: %w", err)
	}
	return nil
}
