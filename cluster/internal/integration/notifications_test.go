package integration_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/partition"
)

// TestNotifications runs an instance with a subscriber with a queue that may refuse.
func TestNotifications(t *testing.T) {
	t.Run("left_in_the_outbox_are_sent_at_the_start", testNotificationsLeft)
	t.Run("refused_are_sent_until_accepted", testNotificationRefused)
	t.Run("overdue_are_sent", testNotificationOverdue)
	t.Run("large_delay_no_commit", testNotificationsLarge)
	t.Run("a_refused_backlog_delays_no_partition", testNotificationBacklog)
}

func testNotificationsLeft(t *testing.T) {
	s := newSetup(t)
	s.subscribe(nil)
	const n = 1200 // more than two pages of the outbox
	for id := range int64(n) {
		s.commit(id + 1)
	}
	if s.stored() != n {
		t.Fatalf("%d stored", s.stored())
	}
	stop := s.run()
	deliveries := s.consume()
	seen := make(map[int64]bool)
	last := make(map[int]int64) // of each partition
	for range n {
		d := s.next(deliveries)
		var user struct {
			ID   int64
			Name string
		}
		if err := json.Unmarshal(d.Body, &user); err != nil {
			t.Fatal(err)
		}
		number := partition.Of(user.ID, s.options.Partitions)
		if seen[user.ID] || user.ID < last[number] {
			t.Fatalf("%d after %d", user.ID, last[number])
		}
		seen[user.ID], last[number] = true, user.ID
		if user.Name != "Ada" || d.RoutingKey != "notifications.user.create" || d.DeliveryMode != amqp.Persistent || d.MessageId == "" {
			t.Fatalf("notification: %s %s", d.RoutingKey, d.Body)
		}
	}
	s.until("the outbox is empty", func() bool { return s.stored() == 0 })
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func testNotificationRefused(t *testing.T) {
	s := newSetup(t)
	s.subscribe(amqp.Table{"x-max-length": 1, "x-overflow": "reject-publish"})
	s.run()
	for id := range int64(3) {
		s.commit(id + 1)
	}
	s.until("one waits and two are refused", func() bool { return s.stored() == 2 })
	deliveries := s.consume()
	for range 3 {
		s.next(deliveries)
	}
	s.until("the outbox is empty", func() bool { return s.stored() == 0 })
}

func testNotificationOverdue(t *testing.T) {
	s := newSetup(t)
	s.subscribe(nil)
	s.run()
	if _, err := s.db.Exec(t.Context(), `INSERT INTO ident_outbox (user_id, message_id, routing_key, body, sealed, committed_at)
		VALUES (1, gen_random_uuid(), 'notifications.user.delete', '{"user_id":1}', false, now() - interval '1 minute')`); err != nil {
		t.Fatal(err)
	}
	if d := s.next(s.consume()); string(d.Body) != `{"user_id":1}` {
		t.Errorf("%s", d.Body)
	}
	s.until("the outbox is empty", func() bool { return s.stored() == 0 })
}

func testNotificationsLarge(t *testing.T) {
	s := newSetup(t)
	s.subscribe(amqp.Table{"x-max-length": 1, "x-overflow": "reject-publish"})
	s.run()
	s.commit(1)
	s.commit(2)
	s.until("one is refused", func() bool { return s.stored() == 1 })
	// Each is some 6 MB in JSON, so that no more than two are on their way.
	const large = 8
	name := strings.Repeat("\x01", 1_000_000)
	committed := make(chan struct{}, large)
	leases := make([]partition.Lease, large)
	for i := range leases {
		leases[i] = s.lease(int64(i + 3))
	}
	for i, lease := range leases {
		go func() {
			defer func() { committed <- struct{}{} }()
			if err := s.tryCommit(lease, int64(i+3), name); err != nil {
				t.Error(err)
			}
		}()
	}
	for range large {
		select {
		case <-committed:
		case <-time.After(30 * time.Second):
			t.Fatal("a commit waits")
		}
	}
	deliveries := s.consume()
	for range 2 + large {
		s.next(deliveries)
	}
	s.until("the outbox is empty", func() bool { return s.stored() == 0 })
}

func testNotificationBacklog(t *testing.T) {
	s := newSetup(t)
	s.subscribe(amqp.Table{"x-max-length": 1, "x-overflow": "reject-publish"})
	s.commit(1)
	const rows = 20_000
	if _, err := s.db.Exec(t.Context(), `INSERT INTO ident_outbox (user_id, message_id, routing_key, body, sealed, partition)
		SELECT 1 + i, gen_random_uuid(), 'notifications.user.delete', '{}', false, i % 4 FROM generate_series(1, $1) i`, rows); err != nil {
		t.Fatal(err)
	}
	s.run()
	s.getDirect(s.client(), 1)
	if left := s.stored(); left < rows-1 {
		t.Fatalf("%d are left", left)
	}
	// What was held back is sent once there is room, each user's in order.
	if _, err := s.channel.QueueDelete("subscriber", false, false, false); err != nil {
		t.Fatal(err)
	}
	s.subscribe(nil)
	s.until("the outbox is empty", func() bool { return s.stored() == 0 })
}
