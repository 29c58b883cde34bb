package operate

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// waiting is what a user waits for, in JSON.
type waiting struct {
	Owner, Phase string
	Cached       bool
	InProgress   int `json:"in_progress"`
	Waiting      int
	Oldest       float64 `json:"oldest_seconds"`
	Commit       struct{ Stage string }
	Held         struct {
		HeldBack bool   `json:"held_back"`
		Key      string `json:"routing_key"`
	} `json:"notifications"`
	Explained []string
}

// TestWaiting: each instance, the page and the command say what a user waits for.
func TestWaiting(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	instances := []*harness.Instance{s.ServeAs(t, "ident-0"), s.ServeAs(t, "ident-1")}
	c := s.NewCaller(t)
	user := c.Create(t, harness.NewUser("github"))
	id := user["id"]
	path := fmt.Sprintf("/users/%v", id)

	// expect waits until each instance says something about the user, and returns that.
	expect := func(what string, is func(waiting) bool) (w waiting) {
		t.Helper()
		for _, v := range instances {
			harness.Eventually(t, what, func() bool {
				text := v.Fetch(t, path)
				for _, secret := range harness.Secrets {
					if strings.Contains(strings.ToLower(text), secret) {
						t.Errorf("%q is shown: %s", secret, text)
					}
				}
				w = waiting{}
				if err := json.Unmarshal([]byte(text), &w); err != nil {
					t.Fatal(err)
				}
				return is(w)
			})
		}
		return w
	}
	expect("nothing is in progress", func(w waiting) bool {
		return strings.HasPrefix(w.Owner, "ident-") && w.Phase == "owned" && w.InProgress+w.Waiting == 0 && strings.Contains(w.Explained[0], "No request")
	})

	fillQueue(t, s, "notifications.user.patch")
	tx, err := s.DB.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	if _, err := tx.Exec(t.Context(), "SELECT FROM users WHERE id = $1 FOR UPDATE", id); err != nil {
		t.Fatal(err)
	}
	request := c.NewRequest("patch", dict{"user_id": id, "ops": list{op("replace", "/name", "New")}})
	c.Send(t, request)
	c.Send(t, c.NewRequest("patch", dict{"user_id": id, "ops": list{op("replace", "/name", "Newer")}}))
	w := expect("the user's row is locked", func(w waiting) bool {
		return w.InProgress >= 1 && w.Waiting >= 1 && w.Oldest > 0 && strings.Contains(w.Commit.Stage, "has locked or changed the user")
	})
	if status, stdout, stderr := harness.Run(t, s.Settings.Environ(), "user", "waiting", fmt.Sprint(id)); status != 0 ||
		!strings.Contains(stdout, w.Owner+" (owned)") || !strings.Contains(stdout, "in the mailbox for 256") {
		t.Errorf("user waiting ended with %d: %s%s", status, stdout, stderr)
	}
	b := harness.OpenPage(t, instances[0].URL)
	b.ExpectText(t, "verdict", "All 4 partitions have one owner.")
	b.Eval(t, fmt.Sprintf(`(document.getElementById("user-id").value = %v, document.querySelector("#user-form button").click())`, id))
	b.ExpectText(t, "user-reply", "owned by "+w.Owner+" (owned)")
	b.ExpectText(t, "user-reply", "which has locked or changed the user")
	b.Screenshot(t, "waiting")
	b.CheckFits(t, 320)
	b.CheckConsole(t, strings.TrimPrefix(instances[0].URL, "http://"))

	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.AwaitReply(t, request)
	expect("its notifications are held back", func(w waiting) bool {
		return w.InProgress+w.Waiting == 0 && w.Held.HeldBack && w.Held.Key == "notifications.user.patch"
	})
	for path, want := range map[string]int{"/users/0": http.StatusBadRequest, "/users/x": http.StatusBadRequest, "/users/9223372036854775807": http.StatusOK} {
		if status := instances[0].Probe(path); status != want {
			t.Errorf("%s: %d", path, status)
		}
	}
	if status, _, stderr := harness.Run(t, s.Settings.Environ(), "user", "waiting", "x"); status != 2 || !strings.Contains(stderr, "whole number") {
		t.Errorf("of no id, user waiting ended with %d: %s", status, stderr)
	}
}

// fillQueue binds a queue that takes nothing.
func fillQueue(t *testing.T, s *harness.Site, key string) {
	t.Helper()
	conn, err := amqp.Dial(s.AMQPURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseDeadline(time.Now().Add(harness.Timeout)) })
	channel, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	q, err := channel.QueueDeclare("", false, true, true, false, amqp.Table{"x-max-length": 0, "x-overflow": "reject-publish"})
	if err == nil {
		err = channel.QueueBind(q.Name, key, "amq.topic", false, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
}
