package sandbox

import (
	"context"
	"net"
	"net/http"
)

// connection is what the server knows of the connection of a request. The zero
// value is one that ConnContext was not told of.
type connection struct {
	number uint32 // from 1
	moves  int    // how often the server had moved when it was accepted
}

// connectionKey is the key of a connection in a request's context.
type connectionKey struct{}

// ConnContext lets the server know the connections of its requests: it is the
// ConnContext of the http.Server that serves it. Move needs it.
func (s *Server) ConnContext(ctx context.Context, _ net.Conn) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.connections++
	return context.WithValue(ctx, connectionKey{}, connection{number: s.connections, moves: s.moves})
}

// Move lets the API move to another server, as behind DNS or a load balancer.
// From now on every request on a connection that was accepted before is answered
// 503 with HTML, and the connection stays open. New connections reach the API.
func (s *Server) Move() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moves++
}

// left reports whether a connection leads to a server that the API has left.
func (s *Server) left(c connection) bool { return c.number > 0 && c.moves < s.moves }

// movedAnswer is what the old server says.
func movedAnswer() Answer {
	return Answer{Status: http.StatusServiceUnavailable, Body: htmlPage(http.StatusServiceUnavailable), Header: map[string]string{"Server": gatewayServer}}
}
