// Package testservers gives tests a real RabbitMQ and a real PostgreSQL.
//
// Postgres and RabbitMQ give a test an empty database or virtual host of its own, which
// is removed when the test ends. The servers are shared, so this takes a fraction of a
// second. OwnPostgres and OwnRabbitMQ give a test a whole server, which the test may
// kill and restart.
//
// In "make test", the program in the folder run starts the shared servers once for all
// packages, and describes them in an environment variable. In a plain "go test
// ./store", the first test that needs a server starts it for that package. So every
// package that uses testservers must have
//
//	func TestMain(m *testing.M) { testservers.Main(m) }
//
// which stops these servers after the tests. It also fails if a goroutine is left.
package testservers
