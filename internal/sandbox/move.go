package sandbox

import (
	"context"
	"net"
	"net/http"
)

// connection is the connection of a request. It is zero without ConnContext.
type connection struct {
	number uint32 // from 1
	moves  int    // number of moves before it was accepted
}

// connectionKey is the context key of a connection.
type connectionKey struct{}

// ConnContext is for http.Server.ConnContext. Move needs it.
func (s *Server) ConnContext(ctx context.Context, _ net.Conn) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.connections++
	return context.WithValue(ctx, connectionKey{}, connection{number: s.connections, moves: s.moves})
}

// Move simulates a move to another server: existing connections get 503, new ones the API.
func (s *Server) Move() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moves++
}

// left reports whether the connection leads to an old server.
func (s *Server) left(c connection) bool { return c.number > 0 && c.moves < s.moves }

// movedAnswer is the answer of an old server.
func movedAnswer() Answer {
	return Answer{Status: http.StatusServiceUnavailable, Body: htmlPage(http.StatusServiceUnavailable), Header: map[string]string{"Server": gatewayServer}}
}
