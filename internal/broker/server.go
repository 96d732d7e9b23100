package broker

import (
	"log/slog"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"linkcancel/internal/task"
)

// Server is an asynq server with a connection of its own, on which a ServerHook sits.
type Server struct {
	*asynq.Server
	client redis.UniversalClient
	hook   *ServerHook
}

// NewServer makes a server with retries and logs set in cfg. The caller closes the server.
func (b *Broker) NewServer(hook *ServerHook, log *slog.Logger, cfg asynq.Config) *Server {
	cfg.RetryDelayFunc, cfg.IsFailure = task.RetryDelay, task.IsFailure
	cfg.Logger, cfg.LogLevel = NewAsynqLogger(log), asynq.WarnLevel
	client := b.NewServerClient(hook)
	return &Server{Server: asynq.NewServerFromRedisClient(client, cfg), client: client, hook: hook}
}

// Shutdown waits for the tasks in hand. After patience it calls giveUp, and then every
// command to Redis fails at once: the process must end whether Redis answers or not.
func (s *Server) Shutdown(patience time.Duration, giveUp func()) {
	timer := time.AfterFunc(patience, func() {
		giveUp()
		s.hook.GiveUp()
	})
	defer timer.Stop()
	s.Server.Shutdown()
}

// Close closes the connection.
func (s *Server) Close() { _ = s.client.Close() }
