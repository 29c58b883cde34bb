package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"testing"
	"time"

	"github.com/glotpod/ident/cluster/client"
)

// options lead to the broker of the tests. In a service they come from its settings, such as
//
//	client.Options{Addresses: []string{"rabbit-1:5672", "rabbit-2:5672"}, Login: "glotpod-api", Password: password, Name: "api"}
var options client.Options

func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, options)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	id, err := c.Create(ctx, &client.User{
		Name: "Ada", Email: "ada@example.org", GitHub: &client.Account{ID: 7, AccessToken: "secret"},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := c.Patch(ctx, id, client.Replace("/name", "Ada L.")); err != nil {
		log.Fatal(err)
	}
	user, err := c.Get(ctx, client.Query{Email: "ada@example.org"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(user.Name, user.GitHub.ID)
	// Prints: Ada L. 7
}

// Errors are told apart by their codes.
func ExampleError() {
	c, err := client.Dial(context.Background(), options)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	_, err = c.Create(context.Background(), &client.User{
		Name: "Other", Email: "ada@example.org", GitHub: &client.Account{ID: 8, AccessToken: "secret"},
	})
	switch {
	case errors.Is(err, client.ErrConflict):
		fmt.Println("somebody has this email")
	case errors.Is(err, client.ErrNoReply):
		fmt.Println("the user may have been created, or not")
	case err != nil:
		log.Fatal(err)
	}
	// Prints: somebody has this email
}

// A program that stores the message id before it sends a write can repeat the write, also
// after a crash, and gets the first reply again.
func ExampleWithMessageID() {
	c, err := client.Dial(context.Background(), options)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	const stored = "sign-up 4711"
	for range 2 {
		ctx := client.WithMessageID(context.Background(), stored)
		_, err := c.Create(ctx, &client.User{
			Name: "Bo", Email: "bo@example.org", GitHub: &client.Account{ID: 9, AccessToken: "secret"},
		})
		fmt.Println(err)
	}
	// Prints:
	// <nil>
	// <nil>
}

func ExampleClient_ListPages() {
	c, err := client.Dial(context.Background(), options)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	for page, err := range c.ListPages(context.Background(), client.ListOptions{Name: "ada", PageSize: 1000}) {
		if err != nil {
			log.Fatal(err)
		}
		for _, user := range page.Users {
			fmt.Println(user.Name)
		}
	}
	// Prints: Ada L.
}

// A subscriber that was away reads the changes that it has missed. It stores the position
// together with what it makes of the changes.
func ExampleClient_ChangePages() {
	c, err := client.Dial(context.Background(), options)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	position := "" // the one that was stored
	for page, err := range c.ChangePages(context.Background(), position, 1000) {
		if errors.Is(err, client.ErrPositionGone) {
			log.Fatal("list all users, and go on from the After of the first page")
		}
		if err != nil {
			log.Fatal(err)
		}
		for _, change := range page.Changes {
			fmt.Println(change.Operation, change.Sequence)
		}
		position = page.After // store it here
	}
	// Prints:
	// create 1
	// patch 2
	// create 1
}

// A subscriber keeps a copy of all users. It takes a snapshot first, and then watches the
// changes since the beginning of the snapshot.
func ExampleClient_Watch() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c, err := client.Dial(ctx, options)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	names, position := make(map[int64]string), ""
	for page, err := range c.ListPages(ctx, client.ListOptions{PageSize: 1000}) {
		if err != nil {
			log.Fatal(err)
		}
		if page.After != "" {
			position = page.After
		}
		for _, user := range page.Users {
			names[user.ID] = user.Name
		}
	}
	fmt.Println("snapshot:", len(names), "users")

	go c.Create(ctx, &client.User{Name: "Cy", Email: "cy@example.org", Facebook: &client.Account{ID: 1, AccessToken: "secret"}})
	err = c.Watch(ctx, client.WatchOptions{
		Queue: "glotpod.example/users",
		After: position,
		Save:  func(_ context.Context, after string) error { position = after; return nil },
		Handle: func(_ context.Context, change *client.Change) error {
			switch change.Operation {
			case "create":
				names[change.UserID] = change.User.Name
			case "delete":
				delete(names, change.UserID)
			case "patch":
				for _, op := range change.Ops {
					if op.Path == "/name" {
						names[change.UserID], _ = op.Value.(string)
					}
				}
			}
			fmt.Println(change.Operation, names[change.UserID])
			if change.Operation == "create" {
				cancel() // this example has seen enough
			}
			return nil
		},
	})
	fmt.Println(err)
	// Prints:
	// snapshot: 2 users
	// create Cy
	// context canceled
}

// TestExamples runs the examples against the real service, one after another.
func TestExamples(t *testing.T) {
	options = optionsFor(serve(t))
	for _, x := range []struct {
		name, want string
		run        func()
	}{
		{"overview", "Ada L. 7\n", Example},
		{"errors", "somebody has this email\n", ExampleError},
		{"message_id", "<nil>\n<nil>\n", ExampleWithMessageID},
		{"list", "Ada L.\n", ExampleClient_ListPages},
		{"watch", "snapshot: 2 users\ncreate Cy\ncontext canceled\n", ExampleClient_Watch},
	} {
		t.Run(x.name, func(t *testing.T) { equal(t, printed(t, x.run), x.want) })
	}
	t.Run("changes", func(t *testing.T) {
		// Changes of different users have no order.
		if n := len(printed(t, ExampleClient_ChangePages)); n != len("create 1\npatch 2\ncreate 1\ncreate 1\n") {
			t.Errorf("%d bytes are printed", n)
		}
	})
}

// printed returns what run prints.
func printed(t *testing.T, run func()) string {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	os.Stdout = write
	defer func() { os.Stdout = stdout }()
	run()
	write.Close()
	text, err := io.ReadAll(read)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
