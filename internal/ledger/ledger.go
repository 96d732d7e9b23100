package ledger

import (
	"context"
	"errors"
	"fmt"
	"linkcancel/internal/task"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// ChunkLinks is the number of links in a full chunk. It is part of the format.
const ChunkLinks = 1000

// formatVersion is written to every new batch. Batches of all formats from 1 on are
// read and drained; those of a newer one are left alone. What the formats differ in:
//
//	1  the first
//	2  a pending link's record knows about answers that the API may not have given
//	   (record.go), and the outcomes of a canary's row become pending again (state.lua)
const formatVersion = 2

// MaxErrors is how many error texts a batch keeps, MaxErrorBytes how long each
// may be.
const (
	MaxErrors     = 10_000
	MaxErrorBytes = 256
)

// Keys that belong to no batch.
const (
	keyBatches = "lc:batches" // sorted set: ids by creation, ms
	keyOpen    = "lc:open"    // set: ids of unfinished batches
	keyFeeder  = "lc:feeder"  // the leader's lease
	keyEpoch   = "lc:epoch"   // counts the leaders
	keyWorkers = "lc:workers" // hash: heartbeats of the workers
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

// Errors that callers branch on.
var (
	ErrNoBatch    = errors.New("no such batch")
	ErrTaken      = errors.New("another import took this batch over")
	ErrBusy       = errors.New("another import with this id is at work")
	ErrDeleted    = errors.New("a batch with this id was deleted a moment ago, and requests of it may be under way")
	ErrNotLeader  = errors.New("another feeder leads")
	ErrUnfinished = errors.New("the batch is not finished")
	ErrNewer      = errors.New("use the newer release")
)

// Ledger reads and writes batches. Its methods may be called from many
// goroutines; every write may safely be repeated.
type Ledger struct {
	rdb redis.UniversalClient

	replicaWait time.Duration // how long a command waits for a replica
}

// New returns the ledger kept in the given Redis database.
func New(rdb redis.UniversalClient) *Ledger {
	return &Ledger{rdb: rdb, replicaWait: time.Second}
}

var nowScript = redis.NewScript(`
-- The time of the server that has this key, in µs.
-- KEYS[1] any key
local t = redis.call('TIME')
return t[1] * 1000000 + t[2]
`)

// Now is Redis' clock, the only one that the ledger goes by. Of a cluster it is
// that of the server which has the workers' heartbeats.
func (l *Ledger) Now(ctx context.Context) (time.Time, error) {
	micros, err := nowScript.Run(ctx, l.rdb, []string{keyWorkers}).Int64()
	if err != nil {
		return time.Time{}, err
	}
	return time.UnixMicro(micros), nil
}

// scriptError turns the error names of the scripts into this package's errors.
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

// CheckBatchID says what is wrong with a batch id that a user chose.
func CheckBatchID(id string) error {
	switch {
	case id == "latest":
		return errors.New(`"latest" is no batch id: it stands for the newest batch`)
	case !task.ValidBatchID(id):
		return fmt.Errorf("batch id %q: use 1 to 64 of A-Z a-z 0-9 . _ -", id)
	}
	return nil
}

// chunkLen is the number of links in chunk n of a batch.
func chunkLen(total int64, n int) int {
	return int(min(ChunkLinks, total-int64(n)*ChunkLinks))
}
