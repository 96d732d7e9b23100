package ledger

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/task"
)

// ChunkLinks is the number of links in a full chunk. It is part of the format.
const ChunkLinks = 1000

// The formats of a batch. This release reads and drains all from 1 on, and leaves newer ones alone.
//
//	1  the first
//	2  a pending link's record counts answers that the API may not have given
//	   (record.go), and outcomes that tripped the canary can be reopened (state.lua)
//	3  a verification, whose links must not be cancelled; or a batch with a time before which
//	   nothing is sent, or a stop condition. Older releases leave it alone
//	4  some chunks are packed (chunk.go). The script that writes the first one sets it
const (
	plainFormat   = 2 // of batches that need no more
	termsFormat   = 3
	packedFormat  = 4
	formatVersion = packedFormat // the newest
)

// SourceVerify is the source of a batch whose links are only read: a verification.
const SourceVerify = "verify"

// MaxErrors is how many error texts a batch keeps, and MaxErrorBytes the length of each.
const (
	MaxErrors     = 10_000
	MaxErrorBytes = 256
)

// Keys outside of batches.
const (
	keyBatches = "lc:batches" // sorted set: ids by creation, ms
	keyOpen    = "lc:open"    // set: ids of unfinished batches
	keyFeeder  = "lc:feeder"  // the leader's lease
	keyEpoch   = "lc:epoch"   // counts the leaders
	keyWorkers = "lc:workers" // hash: heartbeats of the workers

	keyPeople  = "lc:activity"         // sorted set: what people did, by time, ms (history.go)
	keyAuto    = "lc:activity:auto"    // sorted set: what was done automatically
	keyIndexed = "lc:activity:indexed" // hash: the latest indexed entry of histories without a batch
	keyDeleted = "lc:activity:deleted" // sorted set: batches that are being deleted, by time, ms
)

// All keys of a batch share its hash tag, so every script works on a cluster.
func keyBatch(id string) string          { return "lc:{" + id + "}" }
func keyChunk(id string, n int) string   { return keyBatch(id) + ":m:" + strconv.Itoa(n) }
func keyRecords(id string, n int) string { return keyBatch(id) + ":r:" + strconv.Itoa(n) }
func keyErrors(id string) string         { return keyBatch(id) + ":e" }
func keyLinkStatus(id string) string     { return keyBatch(id) + ":s" }
func keyTombstone(id string) string      { return keyBatch(id) + ":gone" }
func keyRedeliveries(id string) string   { return keyBatch(id) + ":a" }
func keyKinds(id string) string          { return keyBatch(id) + ":k" }
func keyRow(id string) string            { return keyBatch(id) + ":c" }

// Errors that callers check for.
var (
	ErrNoBatch    = errors.New("no such batch")
	ErrTaken      = errors.New("another import took this batch over")
	ErrBusy       = errors.New("another import with this id is running")
	ErrDeleted    = errors.New("a batch with this id was just deleted, and its requests may still be in flight")
	ErrNotLeader  = errors.New("another feeder is the leader")
	ErrUnfinished = errors.New("the batch is not finished")
	ErrNewer      = errors.New("use the newer release")
)

// Ledger reads and writes batches. It is safe for concurrent use. Every write may be repeated.
type Ledger struct {
	rdb redis.UniversalClient

	replicaWait    time.Duration // how long a user command waits for a replica
	neverFailsOver atomic.Bool   // Redis has no replication IDs: it is the embedded one
}

// New returns the ledger in a Redis database.
func New(rdb redis.UniversalClient) *Ledger {
	return &Ledger{rdb: rdb, replicaWait: time.Second}
}

var nowScript = redis.NewScript(`
-- KEYS[1] any key   Returns the time of the key's server in µs.
local t = redis.call('TIME')
return t[1] * 1000000 + t[2]
`)

// Now returns the time of Redis, on a cluster of the server that holds the heartbeats.
func (l *Ledger) Now(ctx context.Context) (time.Time, error) {
	micros, err := nowScript.Run(ctx, l.rdb, []string{keyWorkers}).Int64()
	if err != nil {
		return time.Time{}, err
	}
	return time.UnixMicro(micros), nil
}

// scriptError maps the error codes of the scripts to this package's errors.
func scriptError(err error) error {
	if err == nil {
		return nil
	}
	switch text := err.Error(); {
	case strings.HasPrefix(text, "NOBATCH"):
		return ErrNoBatch
	case strings.HasPrefix(text, "TAKEN"):
		return ErrTaken
	case strings.HasPrefix(text, "NEWER"):
		return ErrNewer
	}
	return err
}

// CheckBatchID returns what is wrong with a batch id that a user chose.
func CheckBatchID(id string) error {
	switch {
	case id == "latest":
		return errors.New(`"latest" is not a batch id: it means the newest batch`)
	case !task.ValidBatchID(id), id == ".", id == "..": // no address can contain these two
		return fmt.Errorf("batch id %q: use 1 to 64 of A-Z a-z 0-9 . _ -", id)
	}
	return nil
}

// chunkLen returns the number of links in chunk n of a batch.
func chunkLen(total int64, n int) int {
	return int(min(ChunkLinks, total-int64(n)*ChunkLinks))
}
