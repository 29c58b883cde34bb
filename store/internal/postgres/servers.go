package postgres

import (
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
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

// choose makes config, which is for one attempt, go on to the next server when one is read-only or
// has used its share of the time. With one server there is no choice: see refuseReadOnly.
func (s *servers) choose(config *pgx.ConnConfig) {
	if len(s.all) == 1 {
		return
	}
	c := &choice{servers: s, lookup: config.LookupFunc, dial: config.DialFunc, ips: make(map[string][]string),
		over: make(map[string]error), deadlines: make(map[int]time.Time)}
	config.LookupFunc, config.DialFunc, config.ValidateConnect = c.lookUp, c.connect, c.validate
}

// A choice is made among the servers for one connection. pgx makes one attempt after another: for
// each server, each kind of encryption that sslmode allows, and each address of the server's name. To
// cancel a statement, it connects to the chosen server once more, perhaps while other attempts go on.
type choice struct {
	*servers
	lookup pgconn.LookupFunc
	dial   pgconn.DialFunc

	mu        sync.Mutex          // guards the following fields
	made      bool                // the choice is
	ips       map[string][]string // by the name of a host
	over      map[string]error    // why an address is not tried again
	deadlines map[int]time.Time   // by the index of a server
}

func (c *choice) lookUp(ctx context.Context, host string) ([]string, error) {
	ips, err := c.lookup(ctx, host)
	for i, ip := range ips {
		if parsed, err := netip.ParseAddr(ip); err == nil {
			ips[i] = parsed.String() // as the address of a connection is written
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ips[host] = ips
	return ips, err
}

func (c *choice) connect(ctx context.Context, network, address string) (net.Conn, error) {
	timeout, err := c.timeoutOf(address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := c.dial(ctx, network, address)
	if err != nil {
		c.giveUp(address, err)
	}
	return conn, err
}

// timeoutOf returns how long an attempt to connect to an address may take. It returns an error if
// the address is not tried again.
func (c *choice) timeoutOf(address string) (time.Duration, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made {
		return c.timeout(), nil
	}
	if err := c.over[address]; err != nil {
		return 0, err
	}
	i := c.indexOf(address)
	if i < 0 {
		return c.timeout(), nil
	}
	if c.deadlines[i].IsZero() {
		c.deadlines[i] = time.Now().Add(c.timeout())
	}
	share := c.timeout() / time.Duration(max(1, len(c.ips[c.all[i].host])))
	return min(share, time.Until(c.deadlines[i])), nil
}

// giveUp has an address not tried again.
func (c *choice) giveUp(address string, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over[address] = why
}

func (c *choice) validate(ctx context.Context, conn *pgconn.PgConn) error {
	address := conn.Conn().RemoteAddr().String()
	if err := pgconn.ValidateConnectTargetSessionAttrsReadWrite(ctx, conn); err != nil {
		// With sslmode "prefer", the next attempt would be one to the same server, not encrypted.
		c.giveUp(address, err)
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made = true
	if i := c.indexOf(address); i >= 0 {
		c.first.Store(int64(i))
	}
	return nil
}

// indexOf returns the index of the server at the far end of a connection, -1 if there is none. c.mu is
// held.
func (c *choice) indexOf(address string) int {
	return slices.IndexFunc(c.all, func(s server) bool { return s.isAt(address, c.ips[s.host]) })
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
