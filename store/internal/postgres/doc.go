// Package postgres connects to PostgreSQL. It knows nothing of users.
//
// It decides how a connection is configured ([Settings]), how long an attempt may
// take and when it is repeated ([Pool.Retry]), what an error means ([Classify]), and
// how a pool is closed without disturbing the other users of the database
// ([Pool.Close]). It refuses and closes connections that are read-only. It also counts
// round trips ([Pool.RoundTrips]).
package postgres
