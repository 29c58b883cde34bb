package postgres

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A server is one of those that may be the primary.
type server struct {
	host string // if it begins with "/", the directory of a Unix socket
	port string
}

// servers are the addresses in Settings. A connection is made to the first that accepts writes. It
// begins with the one that did last, because a lost one costs its share of the time.
type servers struct {
	all   []server
	first atomic.Int64 // index of the one that accepted writes last
}

func parseServers(addresses []string) (*servers, error) {
	s := new(servers)
	for _, address := range addresses {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		s.all = append(s.all, server{host, port})
	}
	return s, nil
}

// inOrder returns the servers, the one to try first first.
func (s *servers) inOrder() []server {
	first := s.first.Load()
	return slices.Concat(s.all[first:], s.all[:first])
}

// timeout returns how long an attempt may wait for one of the servers.
func (s *servers) timeout() time.Duration {
	return max(connectTimeout/time.Duration(len(s.all)), minConnectTimeout)
}

// choose makes config, which is for one attempt, go on to the next server when one is read-only.
// With one server there is no choice: see refuseReadOnly.
func (s *servers) choose(config *pgx.ConnConfig) {
	if len(s.all) == 1 {
		return
	}
	hosts := make(map[string][]string) // the addresses that a name stands for
	lookup := config.LookupFunc
	config.LookupFunc = func(ctx context.Context, host string) ([]string, error) {
		found, err := lookup(ctx, host)
		hosts[host] = found
		return found, err
	}
	// After a server that is read-only, pgx makes the next attempt that sslmode allows, and with
	// "prefer" that is one to the same server, not encrypted.
	readOnly := make(map[string]error)
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if err := readOnly[address]; err != nil {
			return nil, err
		}
		return dial(ctx, network, address)
	}
	config.ValidateConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		address := conn.Conn().RemoteAddr().String()
		if err := pgconn.ValidateConnectTargetSessionAttrsReadWrite(ctx, conn); err != nil {
			readOnly[address] = err
			return err
		}
		if i := slices.IndexFunc(s.all, func(one server) bool { return one.isAt(address, hosts[one.host]) }); i >= 0 {
			s.first.Store(int64(i))
		}
		return nil
	}
}

// isAt reports whether the server is the one at the far end of a connection. ips are those of its
// host.
func (s server) isAt(address string, ips []string) bool {
	if filepath.IsAbs(s.host) {
		port, _ := strconv.ParseUint(s.port, 10, 16)
		_, socket := pgconn.NetworkAddress(s.host, uint16(port))
		return socket == address
	}
	return slices.ContainsFunc(ips, func(ip string) bool { return net.JoinHostPort(ip, s.port) == address })
}
