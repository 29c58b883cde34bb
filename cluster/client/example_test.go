package client_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
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
		if err != nil {
			log.Fatal(err) // ErrPositionGone, ErrBadRequest: list all users, and go on from the After of the first page
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

// A userCopy is a copy of all users in a file. Users and position are stored together.
type userCopy struct {
	Users    map[int64]*client.User
	Position string
}

// store writes the file. It is the old one or the new one, whenever the process ends.
func (c *userCopy) store(_ context.Context, position string) error {
	c.Position = position
	text, err := json.Marshal(c)
	if err == nil {
		err = os.WriteFile(copyFile+".new", text, 0o600)
	}
	if err == nil {
		err = os.Rename(copyFile+".new", copyFile)
	}
	return err
}

// handle brings a change into the copy. It may come once more after a restart.
func (c *userCopy) handle(_ context.Context, change *client.Change) error {
	switch u := c.Users[change.UserID]; {
	case change.Operation == "create":
		c.Users[change.UserID] = change.User
	case change.Operation == "delete":
		delete(c.Users, change.UserID)
	case u != nil:
		return u.Apply(change.Ops)
	}
	return nil
}

// snapshot replaces the copy with what the service has.
func (c *userCopy) snapshot(ctx context.Context, service *client.Client) error {
	*c = userCopy{Users: make(map[int64]*client.User)}
	for page, err := range service.ListPages(ctx, client.ListOptions{PageSize: 1000}) {
		if err != nil {
			return err
		}
		c.Position = cmp.Or(c.Position, page.After) // of the first page
		for _, u := range page.Users {
			c.Users[u.ID] = &u
		}
	}
	return c.store(ctx, c.Position)
}

// copyFile is where the examples keep the copy.
var copyFile = filepath.Join(os.TempDir(), "users.json")

// A subscriber keeps a copy of all users. The first time, and if the log does not have all changes
// any more, it takes a snapshot.
func ExampleClient_Watch() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	service, err := client.Dial(ctx, options)
	if err != nil {
		log.Fatal(err)
	}
	defer service.Close()

	var users userCopy
	if text, err := os.ReadFile(copyFile); err == nil {
		err = json.Unmarshal(text, &users)
		if err != nil {
			log.Fatal(err)
		}
	}
	for ctx.Err() == nil {
		if users.Position == "" {
			if err := users.snapshot(ctx, service); err != nil {
				log.Fatal(err)
			}
		}
		err := service.Watch(ctx, client.WatchOptions{
			Queue: "glotpod-example.users", After: users.Position,
			Handle: users.handle, Save: users.store,
			CaughtUp: func() {
				fmt.Println(len(users.Users), "users")
				cancel() // this example has seen enough
			},
		})
		switch {
		case errors.Is(err, client.ErrPositionGone), errors.Is(err, client.ErrBadRequest):
			users.Position = ""
		case ctx.Err() == nil:
			log.Fatal(err)
		}
	}
	// Prints: 2 users
}

// TestExamples runs the examples against the real service, one after another.
func TestExamples(t *testing.T) {
	options, copyFile = optionsFor(serve(t)), filepath.Join(t.TempDir(), "users.json")
	for _, x := range []struct {
		name, want string
		run        func()
	}{
		{"overview", "Ada L. 7\n", Example},
		{"errors", "somebody has this email\n", ExampleError},
		{"message_id", "<nil>\n<nil>\n", ExampleWithMessageID},
		{"list", "Ada L.\n", ExampleClient_ListPages},
		{"watch", "2 users\n", ExampleClient_Watch},
		{"watch_again", "2 users\n", ExampleClient_Watch},
		{"damaged_position", "2 users\n", func() {
			damaged := userCopy{Users: make(map[int64]*client.User)}
			if err := damaged.store(t.Context(), "damaged"); err != nil {
				t.Fatal(err)
			}
			ExampleClient_Watch()
		}},
	} {
		t.Run(x.name, func(t *testing.T) { equal(t, printed(t, x.run), x.want) })
	}
	t.Run("changes", func(t *testing.T) {
		// Changes of different users have no order.
		if n := len(printed(t, ExampleClient_ChangePages)); n != len("create 1\npatch 2\ncreate 1\n") {
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
