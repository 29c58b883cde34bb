package client_test

import (
	"context"
	"errors"
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

// A subscriber that was away reads the changes that it has missed. It stores the position
// together with what it makes of the changes.
func ExampleClient_ChangePages() {
	conn, err := amqp.Dial("amqp://guest:guest@localhost:5672/")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	c, err := client.NewClient(conn)
	if err != nil {
		log.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	position := "" // the one that was stored
	for page, err := range c.ChangePages(ctx, position, 100) {
		var reply *client.ReplyError
		if errors.As(err, &reply) && reply.Code == client.PositionGone {
			log.Fatal("list all users, and go on from the after of the first page")
		}
		if err != nil {
			log.Fatal(err)
		}
		for _, change := range page.Changes {
			fmt.Println(change.UserID, change.Sequence, change.Operation, change.User, change.Ops)
		}
		position = page.After // store it here
	}
}
