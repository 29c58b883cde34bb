package client_test

import (
	"context"
	"fmt"
	"log"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/tinylib/msgp/msgp"

	"github.com/glotpod/ident/cluster/client"
)

func Example() {
	conn, err := amqp.Dial("amqp://guest:guest@localhost:5672/")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	c, err := client.NewClient(conn)
	if err != nil {
		log.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	body, err := msgp.AppendMapStrIntf(nil, map[string]any{"user_id": 1})
	if err != nil {
		log.Fatal(err)
	}
	reply, err := c.CallDirect(ctx, 1, "get", "", body)
	if err != nil {
		log.Fatal(err)
	}
	decoded, _, err := msgp.ReadMapStrIntfBytes(reply, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(decoded["result"], decoded["error"])
}
