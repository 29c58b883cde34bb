package testservers_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/deploy/testservers"
)

func TestMain(m *testing.M) { testservers.Main(m) }

func TestPostgres(t *testing.T) {
	for _, name := range []string{"one", "Zwei & drei", "x/y \"z\""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := testservers.Postgres(t)
			conn, err := pgx.Connect(t.Context(), d.URL())
			if err != nil {
				t.Fatal(err)
			}
			// The connection stays open. The database is dropped nevertheless.
			if _, err := conn.Exec(t.Context(), "CREATE TABLE mine (x int)"); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestRabbitMQ(t *testing.T) {
	for _, name := range []string{"one", "Zwei & drei", "x/y \"z\""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := testservers.RabbitMQ(t)
			conn, err := amqp.Dial(b.URL())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			ch, err := conn.Channel()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ch.QueueDeclare("mine", true, false, false, false, amqp.Table{"x-queue-type": "quorum"}); err != nil {
				t.Fatal(err)
			}
			queues := b.Queues(t)
			if len(queues) != 1 || queues[0].Name != "mine" || queues[0].Type != "quorum" || !queues[0].Durable {
				t.Errorf("queues: %+v", queues)
			}
		})
	}
}
