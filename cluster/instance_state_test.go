package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/internal/metrics"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/cluster/wait"
)

func TestReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSession(t, &fakeStore{})
		defer s.end()
		i := New(Options{Partitions: testPartitions})
		want := func(reason string) {
			t.Helper()
			err := i.Ready()
			if reason == "" && err != nil || reason != "" && (err == nil || !strings.Contains(err.Error(), reason)) {
				t.Errorf("it is %v, want %q", err, reason)
			}
		}
		want("connecting to RabbitMQ")
		if i.Started() == nil {
			t.Error("it has started")
		}
		i.serving.Store(true)
		i.served.Store(true)
		want("database is out of reach")
		i.stored.Store(true)
		want("waiting for partitions")
		i.session.Store(s.session)
		want("waiting for partitions")
		s.session.arrived.Store(true)
		want("the shared queue is not consumed")
		s.startShared()
		synctest.Wait()
		want("")
		i.unsettled.Store(time.Now().UnixNano())
		time.Sleep(maxUnsettled)
		want("")
		time.Sleep(time.Second)
		want("could not be taken")
		if i.Started() != nil {
			t.Error("it has not started")
		}
		i.stopping.Store(true)
		want("asked to end")
	})
}

// TestDatabaseHealth: an instance that cannot make new connections to the database is not
// ready, ends as if the database were out of reach, and serves until then.
func TestDatabaseHealth(t *testing.T) {
	errRefused := fmt.Errorf("%w: too many clients", wait.ErrNoNewConnection)
	watch := func(t *testing.T, insist bool, pings func(since time.Duration) error, check func(*Instance, *testSession, *fakeStore)) (ended time.Duration, err error) {
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now()
			store := &fakeStore{ping: func() error { return pings(time.Since(begun)) }}
			s := newTestSession(t, store)
			defer s.end()
			i := New(Options{Partitions: testPartitions, Store: store, Insist: insist, Log: zap.NewNop()})
			i.serving.Store(true)
			i.session.Store(s.session)
			s.session.arrived.Store(true)
			s.startShared()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan struct{})
			go func() {
				defer close(done)
				err = i.watchDatabase(ctx)
				ended = time.Since(begun)
			}()
			check(i, s, store)
			cancel()
			<-done
		})
		return ended, err
	}
	at := func(from, to time.Duration, err error) func(time.Duration) error {
		return func(since time.Duration) error {
			if since < from || since > to {
				return nil
			}
			return err
		}
	}
	const never = 100 * time.Hour

	t.Run("refused_for_a_moment", func(t *testing.T) {
		_, err := watch(t, false, at(5*time.Second, 7*time.Second, errRefused), func(i *Instance, _ *testSession, _ *fakeStore) {
			time.Sleep(6500 * time.Millisecond)
			if ready := i.Ready(); ready == nil || !strings.Contains(ready.Error(), "no new connection") || !strings.Contains(ready.Error(), "too many clients") {
				t.Errorf("while it is refused: %v", ready)
			}
			time.Sleep(2 * time.Second)
			if ready := i.Ready(); ready != nil {
				t.Errorf("after that: %v", ready)
			}
		})
		if err != nil {
			t.Error(err)
		}
	})

	t.Run("refused_for_long", func(t *testing.T) {
		for insist, limit := range map[bool]time.Duration{false: 10 * time.Second, true: 6 * time.Minute} {
			ended, err := watch(t, insist, at(5*time.Second, never, errRefused), func(i *Instance, s *testSession, store *fakeStore) {
				time.Sleep(limit)
				if s.session.ctx.Err() != nil || store.aborted {
					t.Error("it has not gone on")
				}
				if i.Ready() == nil || i.stored.Load() {
					t.Error("it counts as reachable")
				}
			})
			if !errors.Is(err, wait.ErrUnreachable) || ended < 5*time.Second+refusedFor || ended > limit-time.Second {
				t.Errorf("insist = %v: %v after %v", insist, err, ended)
			}
		}
	})

	t.Run("refused_and_then_lost", func(t *testing.T) {
		pings := func(since time.Duration) error {
			if since > 20*time.Second {
				return errDown
			}
			return at(5*time.Second, never, errRefused)(since)
		}
		watch(t, true, pings, func(i *Instance, s *testSession, _ *fakeStore) {
			time.Sleep(20 * time.Second)
			if s.session.ctx.Err() != nil {
				t.Error("the session has ended too early")
			}
			time.Sleep(maxOutage + 2*5*time.Second)
			if !errors.Is(context.Cause(s.session.ctx), errOutage) {
				t.Errorf("the session goes on: %v", context.Cause(s.session.ctx))
			}
			if ready := i.Ready(); ready == nil || ready.Error() != "the database is out of reach: down" {
				t.Errorf("it is ready: %v", ready)
			}
		})
	})
}

func TestSettled(t *testing.T) {
	bubble(t, "is_of_this_session", &fakeStore{}, func(t *testing.T, s *testSession) {
		other := s.session.self
		other.Incarnation.Session++
		for _, x := range []struct {
			status ownership.Status
			want   bool
		}{
			{ownership.Status{Self: s.session.self, State: ownership.Joining}, false},
			{ownership.Status{Self: other, State: ownership.Draining}, false},
			{ownership.Status{Self: s.session.self, State: ownership.Ready}, false}, // it is not on the ring
			{ownership.Status{Self: s.session.self, State: ownership.Ready, Ring: []string{s.session.self.Name},
				Partitions: []ownership.PartitionStatus{{AssignedTo: s.session.self.Name}}}, false},
			{ownership.Status{Self: s.session.self, State: ownership.Ready, Ring: []string{s.session.self.Name}}, true},
			{ownership.Status{Self: s.session.self, State: ownership.Draining}, true},
		} {
			s.session.arrived.Store(false)
			if s.session.noteSettled(x.status) != x.want || s.session.arrived.Load() != x.want {
				t.Errorf("%+v is settled: %t", x.status, !x.want)
			}
		}
	})
}

func TestEarlierSessions(t *testing.T) {
	member := func(name string, start, session int64) ownership.Member {
		return ownership.Member{Name: name, Incarnation: ownership.Incarnation{Start: start, Session: session}}
	}
	self := member("one", 5, 2)
	rows := []ownership.Row{
		{Lease: partition.Lease{Holder: member("one", 5, 1)}},
		{Lease: partition.Lease{Holder: member("one", 5, 1)}},
		{Lease: partition.Lease{Holder: member("one", 4, 9)}},
		{Lease: partition.Lease{Holder: member("one", 3, 1)}, Released: true},
		{Lease: partition.Lease{Holder: member("two", 1, 1)}},
		{Lease: partition.Lease{Holder: self}},
		{Lease: partition.Lease{Holder: member("one", 6, 1)}},
	}
	want := []ownership.Member{member("one", 5, 1), member("one", 4, 9)}
	if got := earlierSessions(rows, self); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func TestStopCause(t *testing.T) {
	for _, cause := range []error{wait.ErrUnreachable, &StoppedError{Why: "x"}} {
		ctx, cancel := context.WithCancelCause(t.Context())
		if cancel(cause); !errors.Is(stopCause(ctx), cause) {
			t.Errorf("%v is not a cause", cause)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	if cancel(); stopCause(ctx) != nil {
		t.Error("being asked to end is an error")
	}
}

func TestNeedsOperator(t *testing.T) {
	if needsOperator(errDown) || !needsOperator(errors.Join(&topology.SetupError{What: "x"})) {
		t.Error("a setup error is for the operator, another one is not")
	}
}

func TestMember(t *testing.T) {
	bubble(t, "its_own_message_is_a_heartbeat", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.session.onMemberEvent(ownership.MessageReceived{Message: ownership.Message{From: ownership.Member{Name: "two"}}})
		if _, any := s.session.heartbeat.last.Age(); any {
			t.Error("another member's message counts")
		}
		s.session.onMemberEvent(ownership.MessageReceived{Message: ownership.Message{From: s.session.self}})
		if _, any := s.session.heartbeat.last.Age(); !any {
			t.Error("its own message does not count")
		}
		if n := len(s.posted()); n != 2 {
			t.Errorf("%d events were posted", n)
		}
	})

	bubble(t, "reconnect_ends_the_session", &fakeStore{}, func(t *testing.T, s *testSession) {
		s.session.Reconnect("the core says so")
		if err := context.Cause(s.session.ctx); !errors.Is(err, errReconnect) || !strings.Contains(err.Error(), "the core says so") {
			t.Errorf("the cause is %v", err)
		}
	})
}

func TestCollect(t *testing.T) {
	t.Run("are_described_before_the_instance_runs", func(t *testing.T) {
		registry := prometheus.NewPedanticRegistry()
		if err := registry.Register(New(Options{Partitions: testPartitions})); err != nil {
			t.Fatal(err)
		}
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if !strings.HasPrefix(f.GetName(), metrics.Prefix) || !strings.HasSuffix(f.GetHelp(), ".") {
				t.Errorf("%s: %s", f.GetName(), f.GetHelp())
			}
		}
	})
}

func TestStoppedError(t *testing.T) {
	for reason, want := range map[ownership.StopReason]string{
		ownership.Superseded:       "a newer instance has this one's name: start 2",
		ownership.ParametersDiffer: "this instance and the cluster disagree: start 2",
	} {
		if got := (&StoppedError{reason, "start 2"}).Error(); got != want {
			t.Errorf("%v: %q", reason, got)
		}
	}
}
