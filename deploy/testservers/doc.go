// Package testservers gives tests a real RabbitMQ and a real PostgreSQL.
//
// Postgres and RabbitMQ give a test a database or a virtual host that is empty,
// its own, and gone when the test ends. The servers behind them are shared, so
// that this costs a fraction of a second. OwnPostgres and OwnRabbitMQ give a
// test a whole server, which it may kill and restart.
//
// The shared servers come from one of two places. In "make test", the program in
// the folder run starts them once for all packages and describes them in an
// environment variable. In a plain "go test ./store", the first test that needs
// a server has it started for that package. Every package that uses testservers
// therefore has
//
//	func TestMain(m *testing.M) { testservers.Main(m) }
//
// which ends those servers again, and also fails when a goroutine is left.
package testservers
