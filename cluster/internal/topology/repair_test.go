package topology

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap/zaptest/observer"
)

// A fakeLock allows a rebind if that was asked for.
type fakeLock struct {
	mu        sync.Mutex // guards the following fields
	refuse    bool
	err       error
	intervals []time.Duration
}

func (l *fakeLock) TryRebind(ctx context.Context, interval time.Duration, rebind func(context.Context) error) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.intervals = append(l.intervals, interval)
	if l.refuse || l.err != nil {
		return false, l.err
	}
	return true, rebind(ctx)
}

// repairing runs a test with a Repairer that runs, and is responsible for the cluster, in a
// synctest bubble.
func repairing(t *testing.T, name string, b *fakeBroker, l *fakeLock, test func(*testing.T, *Repairer, *int, *observer.ObservedLogs)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			topology, logs := newTopology(b)
			rebinds := 0
			r := NewRepairer(topology, l, RepairerOptions{IsResponsible: func() bool { return true }, OnRebound: func() { rebinds++ }})
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() { r.Run(ctx) })
			test(t, r, &rebinds, logs)
			cancel()
			running.Wait()
		})
	})
}

func TestRepairer(t *testing.T) {
	b, l := &fakeBroker{exchange: true}, new(fakeLock)
	repairing(t, "rebinds_in_order_when_misrouted", b, l, func(t *testing.T, r *Repairer, rebinds *int, _ *observer.ObservedLogs) {
		for range 100 {
			r.ReportMisrouted() // does not block
		}
		synctest.Wait()
		calls := b.take()
		if unbound, bound := bindings(calls, "unbind"), bindings(calls, "bind"); !slices.Equal(unbound, inOrder) || !slices.Equal(bound, inOrder) {
			t.Errorf("unbound were %v, bound %v", unbound, bound)
		}
		if *rebinds != 1 {
			t.Errorf("%d rebinds", *rebinds)
		}
		if first := slices.IndexFunc(calls, func(c string) bool { return strings.HasPrefix(c, "unbind") }); len(bindings(calls[:first], "declare")) != 6 {
			t.Error("a queue that is missing keeps later ones from being bound")
		}
	})

	l = new(fakeLock)
	repairing(t, "rebinds_less_often_if_it_does_not_help", &fakeBroker{exchange: true}, l, func(t *testing.T, r *Repairer, _ *int, _ *observer.ObservedLogs) {
		for range 9 {
			r.ReportMisrouted()
			time.Sleep(2 * rebindPause)
		}
		synctest.Wait()
		want := []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 320 * time.Second, 600 * time.Second, 600 * time.Second, 600 * time.Second}
		if !slices.Equal(l.intervals, want) {
			t.Errorf("the intervals are %v", l.intervals)
		}
		time.Sleep(3 * longestRebindInterval)
		r.ReportMisrouted()
		synctest.Wait()
		if last := l.intervals[len(l.intervals)-1]; last != firstRebindInterval {
			t.Errorf("after a long time the interval is %v", last)
		}
	})

	l = &fakeLock{refuse: true}
	b = &fakeBroker{exchange: true}
	repairing(t, "leaves_it_to_another_instance", b, l, func(t *testing.T, r *Repairer, rebinds *int, logs *observer.ObservedLogs) {
		r.ReportMisrouted()
		time.Sleep(2 * rebindPause)
		r.ReportMisrouted()
		synctest.Wait()
		if calls := b.take(); len(bindings(calls, "unbind")) > 0 || *rebinds != 0 || logs.Len() > 0 {
			t.Errorf("the calls are %v", calls)
		}
		if !slices.Equal(l.intervals, []time.Duration{firstRebindInterval, firstRebindInterval}) {
			t.Errorf("the intervals are %v", l.intervals)
		}
	})

	l = &fakeLock{err: errors.New("down")}
	repairing(t, "logs_a_failed_rebind", &fakeBroker{exchange: true}, l, func(t *testing.T, r *Repairer, rebinds *int, logs *observer.ObservedLogs) {
		r.ReportMisrouted()
		synctest.Wait()
		if *rebinds != 0 || logs.FilterMessage("rebinding the partition queues failed").Len() != 1 {
			t.Errorf("the log has %v", logs.All())
		}
	})

	for name, call := range map[string]string{
		"a_failed_declaration_stops_a_rebind": "declare " + PartitionQueue(2) + " " + Quorum,
		"a_failed_unbinding_stops_a_rebind":   "unbind " + PartitionQueue(2) + " from glotpod.ident by 1",
	} {
		b := &fakeBroker{exchange: true, errs: map[string]error{call: errors.New("down")}}
		repairing(t, name, b, new(fakeLock), func(t *testing.T, r *Repairer, rebinds *int, logs *observer.ObservedLogs) {
			r.ReportMisrouted()
			synctest.Wait()
			if *rebinds != 0 || logs.FilterMessage("rebinding the partition queues failed").Len() != 1 {
				t.Errorf("%d rebinds, and the log has %v", *rebinds, logs.All())
			}
			if calls := b.take(); slices.Contains(bindings(calls, "bind"), 3) || b.open != 0 {
				t.Errorf("%d channels are open, and the calls are %v", b.open, calls)
			}
		})
	}

	b = &fakeBroker{exchange: true}
	repairing(t, "declares_a_missing_queue_once_per_second", b, new(fakeLock), func(t *testing.T, r *Repairer, _ *int, _ *observer.ObservedLogs) {
		for range 29 {
			r.ReportMissing(PartitionQueue(0))
			time.Sleep(declarePause / 10)
		}
		calls := b.take()
		if n := len(bindings(calls, "declare")); n != 3*6 {
			t.Errorf("%d declarations in three seconds", n)
		}
		if len(bindings(calls, "unbind")) > 0 {
			t.Error("the queues were unbound")
		}
	})

	b = &fakeBroker{exchange: true, errs: map[string]error{"declare " + PartitionQueue(2) + " " + Quorum: &amqp.Error{Code: amqp.NotFound}}}
	repairing(t, "declares_a_queue_that_is_down_now_and_then", b, new(fakeLock), func(t *testing.T, r *Repairer, _ *int, logs *observer.ObservedLogs) {
		for range 120 {
			r.ReportMissing(PartitionQueue(2))
			time.Sleep(time.Second / 2)
		}
		if n := logs.FilterMessage("queues left out: their node is down").Len(); n != 2 {
			t.Errorf("in a minute everything was declared %d times", n)
		}
		before := len(bindings(b.take(), "declare"))
		r.ReportMissing(PartitionQueue(3))
		synctest.Wait()
		if n := len(bindings(b.take(), "declare")); n != 6 {
			t.Errorf("for another queue, %d were declared, before %d", n, before)
		}
	})

	b = &fakeBroker{exchange: true}
	repairing(t, "looks_at_what_belongs_to_all_now_and_then", b, new(fakeLock), func(t *testing.T, _ *Repairer, rebinds *int, _ *observer.ObservedLogs) {
		time.Sleep(10 * lookEvery)
		synctest.Wait()
		calls := b.take()
		shared, direct := 0, 0
		for _, call := range calls {
			switch call {
			case bindSharedCall:
				shared++
			case declareHashCall:
				direct++
			}
		}
		if n := len(bindings(calls, "declare")); n > 0 {
			t.Errorf("%d partition queues were declared", n)
		}
		if shared < 60 || shared > 120+20 || direct < 10 || direct > 20+1 || len(b.probed) != probes*direct || *rebinds > 0 {
			t.Errorf("declared were the shared queue %d and the exchange %d times, with %d probes and %d rebinds", shared, direct, len(b.probed), *rebinds)
		}
		for _, m := range b.probed {
			if !IsProbe(&amqp.Delivery{Type: m.Type, Headers: m.Headers, ReplyTo: m.ReplyTo}) {
				t.Fatalf("%+v is not a probe", m)
			}
		}
	})

	b = new(fakeBroker)
	repairing(t, "binds_all_queues_to_an_exchange_that_was_deleted", b, new(fakeLock), func(t *testing.T, _ *Repairer, _ *int, _ *observer.ObservedLogs) {
		time.Sleep(lookEvery)
		synctest.Wait()
		if bound := bindings(b.take(), "bind"); !slices.Equal(bound, inOrder) {
			t.Errorf("bound were %v", bound)
		}
	})

	b = &fakeBroker{exchange: true, unrouted: true}
	repairing(t, "rebinds_if_a_probe_has_no_queue", b, new(fakeLock), func(t *testing.T, _ *Repairer, rebinds *int, _ *observer.ObservedLogs) {
		time.Sleep(declareSharedEvery)
		synctest.Wait()
		if *rebinds != 1 {
			t.Errorf("%d rebinds", *rebinds)
		}
	})

	t.Run("a_probe_that_is_not_handled_delays_nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := &fakeBroker{exchange: true, stuck: make(chan struct{})}
			topology, _ := newTopology(b)
			ctx, cancel := context.WithCancel(t.Context())
			r := NewRepairer(topology, new(fakeLock), RepairerOptions{IsResponsible: func() bool { return true }, OnRebound: func() {}})
			var running sync.WaitGroup
			running.Go(func() { r.Run(ctx) })
			time.Sleep(10 * lookEvery)
			b.take()
			r.ReportMissing(PartitionQueue(0))
			synctest.Wait()
			if n := len(bindings(b.take(), "declare")); n != 6 || len(b.probed) != probes {
				t.Errorf("%d queues were declared, %d probes were sent", n, len(b.probed))
			}
			close(b.stuck)
			time.Sleep(lookEvery)
			synctest.Wait()
			if len(b.probed) == probes {
				t.Error("no more probes were sent")
			}
			cancel()
			running.Wait()
		})
	})

	b = &fakeBroker{exchange: true, errs: map[string]error{bindSharedCall: &amqp.Error{Code: amqp.AccessRefused}}}
	repairing(t, "logs_what_cannot_be_declared", b, new(fakeLock), func(t *testing.T, _ *Repairer, _ *int, logs *observer.ObservedLogs) {
		time.Sleep(10 * lookEvery)
		if n := logs.FilterMessage("queues and exchanges not declared").Len(); n < 10 || n > 21 {
			t.Errorf("the log has %d lines", n)
		}
	})

	t.Run("leaves_what_belongs_to_all_to_another_instance", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := new(fakeBroker)
			topology, _ := newTopology(b)
			ctx, cancel := context.WithTimeout(t.Context(), 10*lookEvery)
			defer cancel()
			NewRepairer(topology, new(fakeLock), RepairerOptions{IsResponsible: func() bool { return false }}).Run(ctx)
			if calls := b.take(); len(calls)+len(b.probed) > 0 {
				t.Errorf("it has called %v", calls)
			}
		})
	})
}
