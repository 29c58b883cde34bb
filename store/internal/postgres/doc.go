// Package postgres connects to PostgreSQL. It knows nothing of users.
//
// It decides how a connection is configured ([Settings]), how long an attempt may
// take and when it is repeated ([Pool.Retry]), what an error means ([Classify]), and
// how a pool is closed without disturbing the other users of the database
// ([Pool.Close]). It refuses and closes connections that are read-only. It also counts
// round trips ([Pool.RoundTrips]).
//
// The database can be reached if a new connection can be made and the pool has one
// ([Pool.Ping]): a server may refuse new connections while open ones work. Each new
// connection is made with the password and the certificates that the files have then.
//
// Connections to one history of the database are in use at a time ([Pool.SetGuard]). Ping also
// finds out whether commits wait for a synchronous standby ([Pool.WaitingForStandby]).
//
// Transactions that must not wait for those of others have a connection beside the pool
// ([Pool.TransactReserved]).
package postgres
