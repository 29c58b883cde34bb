package postgres

import (
	"context"
	"net"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgxpool"
)

// RoundTrips returns the number of round trips to the database since Open. Opening and
// closing a connection count as a few.
func (p *Pool) RoundTrips() int64 { return p.roundTrips.Load() }

// A countedConn counts its writes. pgx sends all statements of a round trip in one
// write, unless they are very large.
type countedConn struct {
	net.Conn   // all of its methods are meant to be used; Write is replaced
	roundTrips *atomic.Int64
}

func (c countedConn) Write(b []byte) (int, error) {
	c.roundTrips.Add(1)
	return c.Conn.Write(b)
}

func countRoundTrips(config *pgxpool.Config, roundTrips *atomic.Int64) {
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return countedConn{conn, roundTrips}, nil
	}
}
