package store

import (
	"context"
	"net"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgxpool"
)

// RoundTrips says how often the store has sent something to the database, which is
// once for each round trip but for a few when a connection is opened or ends.
func (s *Store) RoundTrips() int64 { return s.trips.Load() }

// A countedConn counts what is sent. pgx sends all statements of a round trip
// at once, unless they are very large.
type countedConn struct {
	net.Conn
	trips *atomic.Int64
}

func (c countedConn) Write(b []byte) (int, error) {
	c.trips.Add(1)
	return c.Conn.Write(b)
}

func countTrips(config *pgxpool.Config, trips *atomic.Int64) {
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return countedConn{conn, trips}, nil
	}
}
