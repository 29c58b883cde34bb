package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/client"
	"github.com/glotpod/ident/deploy/testservers"
)

// A watched is a call of Watch in a test.
type watched struct {
	t       *testing.T
	options client.WatchOptions
	changes chan client.Change
	saved   chan string
	stop    func() error // ends Watch and returns its error
	ended   chan error
}

const patience = 20 * time.Second

// watch starts to watch a queue.
func watch(t *testing.T, c *client.Client, o client.WatchOptions) *watched {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &watched{t: t, options: o, changes: make(chan client.Change, 100), saved: make(chan string, 100), ended: make(chan error, 1)}
	if o.Handle == nil {
		w.options.Handle = func(_ context.Context, change *client.Change) error { w.changes <- *change; return nil }
	}
	w.options.Save = func(_ context.Context, after string) error { w.saved <- after; return nil }
	go func() { w.ended <- c.Watch(ctx, w.options) }()
	w.stop = func() error { cancel(); return w.end() }
	t.Cleanup(cancel)
	return w
}

// end waits until Watch has ended.
func (w *watched) end() error { return receive(w.t, "the end", w.ended) }

func receive[T any](t *testing.T, what string, from <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(patience):
		t.Fatalf("%s does not come", what)
	}
	return v
}

// next returns the next change of a user. Notifications of earlier tests may come late.
func (w *watched) next(userID int64) client.Change {
	w.t.Helper()
	for {
		if change := receive(w.t, fmt.Sprint("a change of user ", userID), w.changes); change.UserID == userID {
			return change
		}
	}
}

// expect fails unless the next changes of a user are these.
func (w *watched) expect(userID int64, sequences ...int64) (all []client.Change) {
	w.t.Helper()
	for _, sequence := range sequences {
		change := w.next(userID)
		if change.Sequence != sequence {
			w.t.Errorf("got the change %+v, want number %d of user %d", change, sequence, userID)
		}
		all = append(all, change)
	}
	return all
}

// testWatch has the user n of the test's own in each subtest.
func testWatch(t *testing.T, c *client.Client) {
	t.Run("typed_and_in_order", func(t *testing.T) {
		w := watch(t, c, client.WatchOptions{Queue: "order"})
		receive(t, "a position", w.saved)
		u := create(t, c, 200)
		rename(t, c, u.ID, "B")
		if err := c.Delete(t.Context(), u.ID); err != nil {
			t.Fatal(err)
		}
		got := w.expect(u.ID, 1, 2, 3)
		u.GitHub.AccessToken = ""
		equal(t, got[0].User, u)
		equal(t, got[1].Ops, []client.Op{{Op: "replace", Path: "/name", Value: "B"}})
		for i, operation := range []string{"create", "patch", "delete"} {
			if got[i].Operation != operation || time.Since(got[i].Time).Abs() > time.Minute {
				t.Errorf("change %d is %+v", i, got[i])
			}
		}
		is(t, w.stop(), context.Canceled)
	})

	t.Run("again_after_an_error_of_the_handler", func(t *testing.T) {
		u := create(t, c, 201)
		errFull := errors.New("full")
		failing := client.WatchOptions{Queue: "handler", Handle: func(_ context.Context, change *client.Change) error {
			if change.UserID == u.ID && change.Sequence == 3 {
				return errFull
			}
			return nil
		}}
		w := watch(t, c, failing)
		after := receive(t, "a position", w.saved)
		for n := range 3 {
			rename(t, c, u.ID, fmt.Sprint(n))
		}
		is(t, w.end(), errFull)
		position := after
		for len(w.saved) > 0 {
			position = <-w.saved
		}
		w = watch(t, c, client.WatchOptions{Queue: "handler", After: position})
		sequence := w.next(u.ID).Sequence
		if sequence > 3 {
			t.Errorf("got number %d", sequence)
		}
		for sequence++; sequence <= 4; sequence++ {
			w.expect(u.ID, sequence)
		}
		w.stop()
	})

	t.Run("no_access", func(t *testing.T) {
		is(t, c.Watch(t.Context(), client.WatchOptions{Queue: "amq.mine"}), client.ErrRejected)
		if err := c.Watch(t.Context(), client.WatchOptions{}); err == nil {
			t.Error("a queue without a name is watched")
		}
	})

	t.Run("position_gone", func(t *testing.T) {
		is(t, c.Watch(t.Context(), client.WatchOptions{Queue: "gone", After: "AgAAAA"}), client.ErrPositionGone)
	})
}

func rename(t *testing.T, c *client.Client, id int64, name string) {
	t.Helper()
	if err := c.Patch(t.Context(), id, client.Replace("/name", name)); err != nil {
		t.Fatal(err)
	}
}

// testWatchFaults is for what needs the broker.
func testWatchFaults(t *testing.T, b *testservers.Broker) {
	conn, err := amqp.Dial(b.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	channel, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	bind := func(queue string) {
		if err := channel.QueueBind(queue, "notifications.user.*", "amq.topic", false, nil); err != nil {
			t.Fatal(err)
		}
	}
	unbind := func(queue string) {
		if err := channel.QueueUnbind(queue, "notifications.user.*", "amq.topic", nil); err != nil {
			t.Fatal(err)
		}
	}
	c := dial(t, optionsFor(b))

	t.Run("gaps_are_filled", func(t *testing.T) {
		w := watch(t, c, client.WatchOptions{Queue: "gaps"})
		receive(t, "a position", w.saved)
		u := create(t, c, 210)
		w.expect(u.ID, 1)
		unbind("gaps")
		rename(t, c, u.ID, "missed 1")
		rename(t, c, u.ID, "missed 2")
		bind("gaps")
		rename(t, c, u.ID, "seen")
		w.expect(u.ID, 2, 3, 4)
		position := receive(t, "a position", w.saved)
		w.stop()

		unbind("gaps")
		rename(t, c, u.ID, "missed while away")
		channel.QueueDelete("gaps", false, false, false)
		w = watch(t, c, client.WatchOptions{Queue: "gaps", After: position})
		for w.next(u.ID).Sequence < 5 { // the position may be before number 4
		}
		w.stop()
	})

	t.Run("gaps_of_users_of_a_snapshot_are_filled", func(t *testing.T) {
		u := create(t, c, 215)
		rename(t, c, u.ID, "of the snapshot")
		caughtUp := make(chan struct{}, 100)
		w := watch(t, c, client.WatchOptions{Queue: "snapshot", After: snapshotPosition(t, c), CaughtUp: func() { caughtUp <- struct{}{} }})
		receive(t, "the end of the log", caughtUp)
		unbind("snapshot")
		rename(t, c, u.ID, "missed")
		bind("snapshot")
		rename(t, c, u.ID, "seen")
		w.expect(u.ID, 3, 4)
		w.stop()
	})

	t.Run("a_queue_with_other_arguments_is_used", func(t *testing.T) {
		if _, err := channel.QueueDeclare("theirs", true, false, false, false, amqp.Table{"x-max-length": int32(10)}); err != nil {
			t.Fatal(err)
		}
		w := watch(t, c, client.WatchOptions{Queue: "theirs"})
		receive(t, "a position", w.saved)
		u := create(t, c, 216)
		w.expect(u.ID, 1)
		w.stop()
	})

	t.Run("least_permissions", func(t *testing.T) {
		if _, err := channel.QueueDeclare("operated", true, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
		limited := dial(t, limitedLogin(t, b, "watcher", permissions{
			write: `^(amq\.topic|operated|absent)$`, read: `^(amq\.topic|operated|absent)$`, topicWrite: `^rpc\.user\.`, topicRead: `^notifications\.user\.`,
		}))
		w := watch(t, limited, client.WatchOptions{Queue: "operated"})
		receive(t, "a position", w.saved)
		u := create(t, c, 217)
		w.expect(u.ID, 1)
		w.stop()
		is(t, limited.Watch(within(t, patience), client.WatchOptions{Queue: "absent", After: snapshotPosition(t, c)}), client.ErrRejected)
	})

	t.Run("what_a_notification_says_does_not_matter", func(t *testing.T) {
		w := watch(t, c, client.WatchOptions{Queue: "repeated"})
		receive(t, "a position", w.saved)
		u := create(t, c, 211)
		w.expect(u.ID, 1)
		for key, body := range map[string]string{
			"patch": fmt.Sprintf(`{"user_id": %d, "ops": []}`, u.ID), "delete": fmt.Sprintf(`{"user_id": %d}`, u.ID),
			"create": "[[[", "forget": "", "other": string(make([]byte, 17<<20)),
		} {
			m := amqp.Publishing{Body: []byte(body), Headers: amqp.Table{"schema": int32(1), "sequence": int64(2), "committed_at": "2026-01-31T12:00:00.123450Z"}}
			if err := channel.Publish("amq.topic", "notifications.user."+key, true, false, m); err != nil {
				t.Fatal(err)
			}
		}
		rename(t, c, u.ID, "B")
		w.expect(u.ID, 2)
		w.stop()
	})

	t.Run("lost_connection", func(t *testing.T) {
		p := newProxy(t, b)
		o := optionsFor(b)
		o.Addresses = []string{p.address}
		far := dial(t, o)
		w := watch(t, far, client.WatchOptions{Queue: "lost"})
		receive(t, "a position", w.saved)
		u := create(t, c, 213)
		var seen []int64
		for n := range int64(5) {
			rename(t, c, u.ID, fmt.Sprint(n))
			p.cut()
		}
		for len(seen) < 6 {
			seen = append(seen, w.next(u.ID).Sequence)
		}
		if !slices.IsSorted(seen) || len(slices.Compact(seen)) < 6 {
			t.Errorf("the changes are %v", seen)
		}
		w.stop()
	})

	t.Run("one_process_at_a_time", func(t *testing.T) {
		first := watch(t, c, client.WatchOptions{Queue: "turns"})
		receive(t, "a position", first.saved)
		second := watch(t, c, client.WatchOptions{Queue: "turns", After: snapshotPosition(t, c)})
		u := create(t, c, 214)
		first.expect(u.ID, 1)
		rename(t, c, u.ID, "B")
		first.expect(u.ID, 2)
		if len(second.changes) > 0 {
			t.Error("the second one watches too")
		}
		first.stop()
		rename(t, c, u.ID, "C")
		second.expect(u.ID, 1, 2, 3) // it was called before the first change
		second.stop()
	})
}
