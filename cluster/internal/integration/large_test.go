package integration_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
)

// maxMessageSize is the size of the largest message that the broker of TestLargeMessages
// accepts at first.
const maxMessageSize = 65536

// TestLargeMessages has two instances over a broker that closes channels because of large
// messages. Each costs its own request.
func TestLargeMessages(t *testing.T) {
	t.Parallel()
	at := testservers.OwnRabbitMQ(t, localserver.RabbitMQOptions{MaxMessageSize: maxMessageSize})
	s := newSetupAt(t, at.URL("/"), broker.Options{Addresses: []string{at.Address()}, VHost: "/", Login: at.User, Password: at.Password})
	s.subscribe(nil)
	large := &largeMessages{setup: s, control: at.Control}
	for id := range int64(8) {
		s.commit(id + 1)
	}
	large.commitLarge(100, 80_000)
	large.commitLarge(101, 40_000)
	if err := s.tryCommit(s.lease(102), 102, strings.Repeat("x", 70_000)); err != nil { // with a notification
		t.Fatal(err)
	}
	large.first, _ = s.launch()
	s.options.Name, s.options.Store = "two", openStore(t, s.database)
	large.second, _ = s.launch()
	s.until("both instances are ready", func() bool { return large.first.Ready() == nil && large.second.Ready() == nil })
	large.caller = s.client()

	t.Run("a_reply", large.testReply)
	t.Run("a_page", large.testPage)
	t.Run("a_notification", large.testNotification)
	t.Run("a_stored_notification", large.testStored)
	t.Run("the_limit_is_lowered", large.testLowered)
	for _, instance := range []*cluster.Instance{large.first, large.second} {
		if n := value(t, instance, "sessions_total"); n != 1 {
			t.Errorf("an instance took %v sessions", n)
		}
	}
}

type largeMessages struct {
	*setup
	control       localserver.Control
	first, second *cluster.Instance
	caller        *caller
}

// commitLarge creates a user with a name of some bytes, without a notification.
func (s *largeMessages) commitLarge(id int64, bytes int) {
	s.t.Helper()
	if err := s.tryCommit(s.lease(id), id, strings.Repeat("x", bytes)); err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.db.Exec(s.t.Context(), "DELETE FROM ident_log WHERE user_id = $1", id); err != nil {
		s.t.Fatal(err)
	}
}

// expect fails unless a reply is an error reply of invocation_failed.
func (s *largeMessages) expect(t *testing.T, what string, reply []byte, err error) {
	t.Helper()
	if code := actor.ErrorCode(reply); err != nil || code != actor.InvocationFailed {
		t.Errorf("%s: %d bytes, %q, %v", what, len(reply), code, err)
	}
}

// serves fails unless all other users are served, by both ways.
func (s *largeMessages) serves(t *testing.T) {
	t.Helper()
	for id := range int64(8) {
		s.getDirect(s.caller, id+1)
		if err := s.patch(t.Context(), s.caller, id+1); err != nil {
			t.Errorf("user %d: %v", id+1, err)
		}
	}
}

func (s *largeMessages) testReply(t *testing.T) {
	for range 3 {
		reply, err := s.caller.Call(t.Context(), "get", "", pack(map[string]any{"user_id": 100}))
		s.expect(t, "by the shared queue", reply, err)
		reply, err = s.caller.CallDirect(t.Context(), 100, "get", "", pack(map[string]any{"user_id": 100}))
		s.expect(t, "by the partition's queue", reply, err)
		s.getDirect(s.caller, 101)
	}
	s.serves(t)
}

func (s *largeMessages) testPage(t *testing.T) {
	reply, err := s.caller.Call(t.Context(), "list", "", pack(map[string]any{}))
	s.expect(t, "a page with the large user", reply, err)
	s.result(s.caller.Call(t.Context(), "list", "", pack(map[string]any{"page_size": 8})))
	s.serves(t)
}

// A control character takes six bytes in JSON.
func (s *largeMessages) testNotification(t *testing.T) {
	name := strings.Repeat("\x01", 20_000)
	users := s.one("SELECT count(*) FROM users")
	for n := range 3 {
		reply, err := s.caller.Call(t.Context(), "create", "too-large", pack(map[string]any{
			"name": name, "email": "large", "github": map[string]any{"id": 1000, "access_token": "t"}}))
		s.expect(t, "a create", reply, err)
		reply, err = s.caller.Call(t.Context(), "patch", fmt.Sprint("too-large-", n), pack(map[string]any{"user_id": 1, "ops": []any{
			map[string]any{"op": "replace", "path": "/name", "value": name}}}))
		s.expect(t, "a patch", reply, err)
	}
	if after := s.one("SELECT count(*) FROM users"); after != users {
		t.Errorf("there were %v users, and are %v", users, after)
	}
	s.result(s.caller.Call(t.Context(), "create", "too-large", pack(map[string]any{ // the refusal was not recorded
		"name": "small", "email": "large", "github": map[string]any{"id": 1000, "access_token": "t"}})))
	s.serves(t)
}

// A notification that is already stored costs the notifications of its user, until its change is
// taken out of the order of the partition, as the runbook says.
func (s *largeMessages) testStored(t *testing.T) {
	heldBack := func() float64 {
		return value(t, s.first, "notifications_held_back_users") + value(t, s.second, "notifications_held_back_users")
	}
	s.until("the notifications of its user are held back", func() bool { return heldBack() == 1 })
	if err := s.patch(t.Context(), s.caller, 102); err != nil {
		t.Error(err)
	}
	s.until("all others are sent", func() bool { return s.stored() == 2 })
	if heldBack() != 1 {
		t.Error("a later one was sent before")
	}
	if _, err := s.db.Exec(t.Context(), "UPDATE ident_log SET position = NULL WHERE user_id = 102 AND length(change::text) > 60000"); err != nil {
		t.Fatal(err)
	}
	s.until("the later one is sent", func() bool { return s.stored() == 0 && heldBack() == 0 })
}

// A limit that is lowered while the broker runs holds for channels that are opened later.
func (s *largeMessages) testLowered(t *testing.T) {
	// RabbitMQ 4.x reads the persistent term, older versions the setting of the application.
	if _, err := s.control.Eval(t.Context(), "application:set_env(rabbit, max_message_size, 32768), persistent_term:put(max_message_size, 32768)."); err != nil {
		t.Fatal(err)
	}
	if _, err := s.channel.QueueDelete(sharedQueue, false, false, false); err != nil {
		t.Fatal(err)
	}
	s.until("the shared queue is consumed again", func() bool { return s.consumers(sharedQueue) == 2 })
	reply, err := s.caller.Call(t.Context(), "get", "", pack(map[string]any{"user_id": 101}))
	s.expect(t, "a reply that has become too large", reply, err)
	s.serves(t)
}
