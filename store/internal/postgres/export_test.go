package postgres

// TransactOn is Pool.Transact on a connection that is not in a pool.
var TransactOn = transact
