package feeder

import (
	"context"
	"errors"
	"fmt"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"linkcancel/internal/ledger"
	"linkcancel/internal/task"
	"linkcancel/internal/tracing"
)

// parallel is how many slices are enqueued or looked up at the same time.
const parallel = 16

// inOrder is how many slices are enqueued one after the other. The canary looks at outcomes in a row, and at
// low rates they then come in the order of the batch.
const inOrder = 4

// tracedChunks is how many chunks of a batch are in its own trace. Each later slice has a trace of
// its own, linked and sampled separately: few stores accept a million spans.
const tracedChunks = 1

// queue is asynq's queues of slices.
type queue struct {
	rdb         redis.UniversalClient
	client      *asynq.Client
	inspector   *asynq.Inspector
	ledger      *ledger.Ledger
	tracer      trace.Tracer               // nil: no traces
	traceparent func(batch string) string  // the place of a batch in its trace, or ""
	fed         func(context.Context, int) // see Config.Fed
}

func newQueue(f *Feeder, traceparent func(string) string) *queue {
	return &queue{
		rdb: f.rdb, ledger: f.ledger, tracer: f.cfg.Tracer, traceparent: traceparent, fed: f.cfg.Fed,
		client:    asynq.NewClientFromRedisClient(f.rdb),
		inspector: asynq.NewInspectorFromRedisClient(f.rdb),
	}
}

// lengths returns how many slices wait for a worker, and how many for a retry.
func (q *queue) lengths(ctx context.Context) (pending, retrying int, err error) {
	pipe := q.rdb.Pipeline()
	var waiting, delayed []*redis.IntCmd
	for name := range task.Queues {
		waiting, delayed = append(waiting, pipe.LLen(ctx, task.PendingKey(name))), append(delayed, pipe.ZCard(ctx, task.RetryKey(name)))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return 0, 0, fmt.Errorf("read the queue: %w", err)
	}
	for i := range waiting {
		pending, retrying = pending+int(waiting[i].Val()), retrying+int(delayed[i].Val())
	}
	return pending, retrying, nil
}

// contains reports whether the queue has the task of a slice.
func (q *queue) contains(s task.Slice) (bool, error) {
	_, err := q.inspector.GetTaskInfo(s.Queue(), s.ID())
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, asynq.ErrTaskNotFound), errors.Is(err, asynq.ErrQueueNotFound):
		return false, nil
	}
	return false, fmt.Errorf("look up task %s: %w", s.ID(), err)
}

// enqueue puts slices into the queue. One that is there already stays as it is.
func (q *queue) enqueue(ctx context.Context, all []task.Slice) error {
	if len(all) == 0 {
		return nil
	}
	ids := map[string]string{} // replication IDs by queue
	for _, s := range all {
		if _, known := ids[s.Queue()]; known {
			continue
		}
		id, err := q.ledger.QueueReplicationID(ctx, task.PendingKey(s.Queue()))
		if err != nil {
			return err
		}
		ids[s.Queue()] = id
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	if len(all) <= inOrder {
		group.SetLimit(1)
	}
	for _, s := range all {
		s.ReplicationID = ids[s.Queue()]
		group.Go(func() error {
			if q.tracer != nil {
				return q.putTraced(groupCtx, s)
			}
			return q.put(groupCtx, s)
		})
	}
	err := group.Wait()
	if q.fed != nil {
		q.fed(ctx, len(all))
	}
	return err
}

func (q *queue) put(ctx context.Context, s task.Slice) error {
	t, err := s.Task()
	if err != nil {
		return err
	}
	if _, err := q.client.EnqueueContext(ctx, t); err != nil && !errors.Is(err, asynq.ErrTaskIDConflict) {
		return fmt.Errorf("enqueue slice %s: %w", s.ID(), err)
	}
	return nil
}

// putTraced puts a slice into the queue within a span, which the task's headers name.
func (q *queue) putTraced(ctx context.Context, s task.Slice) error {
	options := []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithAttributes(
			tracing.Batch.String(s.Batch), tracing.Slice.String(s.Key()), tracing.Links.Int(len(s.Links)), tracing.Again.Int(s.Redeliveries),
			semconv.MessagingSystemKey.String("asynq"), semconv.MessagingDestinationName(s.Queue()), semconv.MessagingMessageID(s.ID()),
			semconv.MessagingOperationTypeSend,
		),
	}
	// The slice belongs to its batch's trace, not to one of this process.
	parent := tracing.SpanContext(q.traceparent(s.Batch))
	spanCtx := trace.ContextWithRemoteSpanContext(ctx, parent)
	if s.Chunk >= tracedChunks && parent.IsValid() {
		options = append(options, trace.WithNewRoot(), trace.WithLinks(trace.Link{SpanContext: parent}))
	}
	spanCtx, span := q.tracer.Start(spanCtx, "feed slice", options...)
	s.Headers = tracing.Carry(spanCtx)
	err := q.put(ctx, s)
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
	return err
}
