package integration_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/partition"
)

// TestNotifications runs an instance with a subscriber with a queue that may refuse.
func TestNotifications(t *testing.T) {
	t.Parallel()
	t.Run("left_in_the_log_are_sent_at_the_start", testNotificationsLeft)
	t.Run("refused_are_sent_until_accepted", testNotificationRefused)
	t.Run("of_earlier_days_are_sent", testNotificationsOfEarlierDays)
	t.Run("large_delay_no_commit", testNotificationsLarge)
	t.Run("a_refused_backlog_delays_no_partition", testNotificationBacklog)
	t.Run("a_silent_queue_delays_nobody", testNotificationSilentQueue)
}

func testNotificationsLeft(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	s.subscribe(nil)
	const n = 1200 // more than two pages of the log
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
	s.until("all changes are notified", func() bool { return s.stored() == 0 })
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func testNotificationRefused(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	s.subscribe(amqp.Table{"x-max-length": 1, "x-overflow": "reject-publish"})
	s.run()
	for id := range int64(3) {
		s.commit(id + 1)
	}
	s.until("one waits and two are refused", func() bool { return s.stored() == 2 })

	// Another subscriber gets what is committed meanwhile.
	if _, err := s.channel.QueueDeclare("another", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.channel.QueueBind("another", "notifications.user.#", "amq.topic", false, nil); err != nil {
		t.Fatal(err)
	}
	const others = 100
	for id := range int64(others) {
		s.commit(id + 4)
	}
	s.until("the other subscriber has them", func() bool {
		queue, err := s.channel.QueueDeclarePassive("another", false, false, false, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		return queue.Messages >= others
	})
	if stored := s.stored(); stored != 2+others {
		t.Errorf("%d are held back, want %d", stored, 2+others)
	}

	deliveries := s.consume()
	for range 3 + others {
		s.next(deliveries)
	}
	s.until("all changes are notified", func() bool { return s.stored() == 0 })
}

// The service was down for days. A partition has more to notify than another, of each day.
func testNotificationsOfEarlierDays(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	s.subscribe(nil)
	const days, users = 3, 8
	for id := range int64(users) {
		s.commit(id + 1) // of today
	}
	if _, err := s.db.Exec(t.Context(), `SELECT ident_log_day((now() AT TIME ZONE 'UTC')::date - n) FROM generate_series(1, $1::int + 1) AS n`, days); err != nil {
		t.Fatal(err)
	}
	if _, err := s.db.Exec(t.Context(), `UPDATE ident_partitions SET notified_on = (now() AT TIME ZONE 'UTC')::date - $1::int - 1`, days); err != nil {
		t.Fatal(err)
	}
	if _, err := s.db.Exec(t.Context(), `INSERT INTO ident_log (at, request, digest, user_id, sequence, position, partition, operation)
		SELECT now() - n * interval '1 day', gen_random_uuid(), 0, l.user_id, 0, $1::int + 1 - n + l.user_id * $1::int, l.partition, 'delete'
		FROM ident_log AS l, generate_series(1, $1::int) AS n`, days); err != nil {
		t.Fatal(err)
	}
	s.run()
	deliveries := s.consume()
	seen := make(map[int64]int)
	for range users * (days + 1) {
		d := s.next(deliveries)
		var body struct {
			ID      int64
			Deleted int64 `json:"user_id"`
		}
		if err := json.Unmarshal(d.Body, &body); err != nil {
			t.Fatal(err)
		}
		user := body.ID + body.Deleted
		if created := seen[user] == days; created != (body.ID != 0) {
			t.Errorf("notification %d of user %d: %s", seen[user]+1, user, d.Body)
		}
		seen[user]++
	}
	s.until("all changes are notified", func() bool { return s.stored() == 0 })
}

func testNotificationsLarge(t *testing.T) {
	t.Parallel()
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
			// The broker's limit is not known at first, and measuring it may take too long.
			err := s.tryCommit(lease, int64(i+3), name)
			for range 10 {
				if err != nil {
					err = s.tryCommit(lease, int64(i+3), name)
				}
			}
			if err != nil {
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
	s.until("all changes are notified", func() bool { return s.stored() == 0 })
}

func testNotificationBacklog(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	s.subscribe(amqp.Table{"x-max-length": 1, "x-overflow": "reject-publish"})
	s.commit(1)
	const rows = 20_000
	if _, err := s.db.Exec(t.Context(), `INSERT INTO ident_log (request, digest, user_id, sequence, position, partition, operation)
		SELECT gen_random_uuid(), 0, 1 + i, 1, i, i % 4, 'delete' FROM generate_series(1, $1) i`, rows); err != nil {
		t.Fatal(err)
	}
	s.run()
	trips := s.store.RoundTrips()
	caller := s.client()
	s.getDirect(caller, 1)
	if left := s.stored(); left < rows-100 {
		t.Fatalf("%d are left", left)
	}
	time.Sleep(5 * time.Second)
	// The backlog has 40 pages, and a page takes seven round trips. It is not read again and again.
	if n := s.store.RoundTrips() - trips; n > 400 {
		t.Errorf("%d round trips to the database in five seconds", n)
	}
	// What was held back is sent once there is room, each user's in order.
	if _, err := s.channel.QueueDelete("subscriber", false, false, false); err != nil {
		t.Fatal(err)
	}
	s.subscribe(nil)
	s.until("all changes are notified", func() bool { return s.stored() == 0 })
}

// testNotificationSilentQueue has a subscriber with a queue that confirms nothing. Writes
// are replied to, forwarded ones too, and partitions move meanwhile.
func testNotificationSilentQueue(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	s.subscribe(amqp.Table{"x-queue-type": "quorum"})
	s.run()
	const users, writes = 100, 30
	for id := range int64(users) {
		s.commit(id + 1)
	}
	s.until("all changes are notified", func() bool { return s.stored() == 0 })
	resume := s.vhost.SuspendQueue(t, "subscriber")
	caller := s.client()
	patchAll := func(from, to int) { // of each user, one after another
		t.Helper()
		var callers sync.WaitGroup
		for id := range int64(users) {
			callers.Go(func() {
				for n := from; n < to; n++ {
					s.result(caller.Call(t.Context(), "patch", fmt.Sprint(id, "-", n), pack(map[string]any{"user_id": id + 1, "ops": []any{
						map[string]any{"op": "replace", "path": "/name", "value": fmt.Sprint(n)}}})))
				}
			})
		}
		callers.Wait()
	}
	begun := time.Now()
	patchAll(1, writes)
	t.Logf("%d writes took %v", users*writes, time.Since(begun))

	s.options.Name, s.options.Store = "two", openStore(t, s.database)
	newcomer, _ := s.launch()
	begun = time.Now()
	s.until("the newcomer has its partitions", func() bool { return newcomer.Ready() == nil })
	if took := time.Since(begun); took > 15*time.Second {
		t.Errorf("the hand-over took %v", took)
	}
	t.Logf("the hand-over took %v", time.Since(begun))
	patchAll(writes, writes+1)

	resume()
	deliveries := s.consume()
	last, seen := make(map[int64]int), make(map[string]bool)
	for len(seen) < users*writes {
		d := s.next(deliveries)
		if seen[d.MessageId] {
			continue
		}
		seen[d.MessageId] = true
		if d.RoutingKey != "notifications.user.patch" {
			continue
		}
		var patch struct {
			UserID int64 `json:"user_id"`
			Ops    []struct{ Value string }
		}
		if err := json.Unmarshal(d.Body, &patch); err != nil || len(patch.Ops) != 1 {
			t.Fatalf("%s: %v", d.Body, err)
		}
		n, _ := strconv.Atoi(patch.Ops[0].Value)
		if n <= last[patch.UserID] {
			t.Fatalf("%s after %d", d.Body, last[patch.UserID])
		}
		last[patch.UserID] = n
	}
	s.until("all changes are notified", func() bool { return s.stored() == 0 })
}
