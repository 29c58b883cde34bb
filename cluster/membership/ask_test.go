package membership_test

import (
	"context"
	"errors"
	"math"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/ownership"
)

func describe(self ownership.Member, others ...ownership.Member) func(*membership.Options) {
	return func(o *membership.Options) {
		o.Report = func() membership.Report { return report(self, others...) }
	}
}

// soon returns a context for something that must not happen.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// inTime returns a context for something that has to happen.
func inTime(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestAskStatus(t *testing.T) {
	t.Run("all_reports", testAskStatusAllReports)
	t.Run("newest_incarnation", testAskStatusNewestIncarnation)
	t.Run("strangers_to_each_other", testAskStatusStrangersToEachOther)
	t.Run("missing_named", testAskStatusMissingNamed)
	t.Run("unsendable_report", testAskStatusUnsendableReport)
	t.Run("found_dead", testAskStatusFoundDead)
	t.Run("no_instance", testAskStatusNoInstance)
	t.Run("context_or_connection_ends", testAskStatusContextOrConnectionEnds)
}

func testAskStatusAllReports(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a, b, c := member("a", 1, 1), member("b", 1, 1), member("c", 1, 1)
	full := report(b, a, c)
	full.Version, full.StartedAt = "1.2.3", time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	full.Parameters = membership.Parameters{Partitions: 8, TableVersion: 1, QueueType: "quorum"}
	full.Partitions = []membership.ServedPartition{{Partition: 7, Phase: "owned", Epoch: 3, RequestsPerSecond: 0.5}}
	full.SharedRequestsPerSecond, full.CachedUsers = 12.25, 7
	full.Counters = membership.Counters{Forwarded: 1, Misrouted: 2, Fenced: 3, DatabaseRoundTrips: 4}
	var asked sync.WaitGroup
	for self, r := range map[ownership.Member]membership.Report{a: report(a, b), b: full, c: report(c, a, b)} {
		asked.Add(1)
		var once sync.Once
		s.join(self, func(o *membership.Options) {
			o.Report = func() membership.Report {
				once.Do(asked.Done)
				return r
			}
		})
	}
	s.join(member("b", 0, 9), func(o *membership.Options) { // superseded, but still running
		o.Report = func() membership.Report {
			asked.Wait() // so that it replies last
			return report(member("b", 0, 9), a)
		}
	})

	reports, err := membership.AskStatus(inTime(t), s.connect().Connection)
	if err != nil {
		t.Fatal(err)
	}
	if want := []membership.Report{report(a, b), full, report(c, a, b)}; !reflect.DeepEqual(reports, want) {
		t.Errorf("%+v", reports)
	}
}

func testAskStatusNewestIncarnation(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	older, newer := member("a", 1, 1), member("a", 1, 2)
	s.join(older, nil)
	s.join(member("b", 1, 1), describe(member("b", 1, 1), newer))
	var asked atomic.Int32
	s.join(newer, func(o *membership.Options) {
		o.Report = func() membership.Report {
			if asked.Add(1) == 1 {
				return membership.Report{} // not a valid report
			}
			return report(newer)
		}
	})
	reports, err := membership.AskStatus(inTime(t), s.connect().Connection)
	if err != nil || len(reports) != 2 || reports[0].Member() != newer {
		t.Errorf("%v %v", reports, err)
	}
}

// The reports of members that do not know each other yet, because they have just
// started, do not count as complete at once.
func testAskStatusStrangersToEachOther(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a, b := member("a", 1, 1), member("b", 1, 1)
	asked := make(chan struct{})
	var once sync.Once
	s.join(a, func(o *membership.Options) {
		o.Report = func() membership.Report {
			once.Do(func() { close(asked) })
			return report(a)
		}
	})
	s.join(b, func(o *membership.Options) {
		o.Report = func() membership.Report {
			<-asked // so that b replies last
			return report(b)
		}
	})
	var reports []membership.Report
	for range 20 { // b may take longer than the quiet period
		var err error
		if reports, err = membership.AskStatus(inTime(t), s.connect().Connection); err != nil {
			t.Fatal(err)
		}
		if len(reports) == 2 {
			return
		}
	}
	t.Errorf("%v", reports)
}

func testAskStatusMissingNamed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a, b, c := member("a", 1, 1), member("b", 1, 1), member("c", 1, 1)
	s.join(a, describe(a, b, c))
	s.join(b, describe(b, a, c))
	over := make(chan struct{})
	defer close(over)
	s.join(c, func(o *membership.Options) {
		o.Report = func() membership.Report { <-over; return report(c) }
	})
	reports, err := membership.AskStatus(soon(t), s.connect().Connection)
	missing, ok := errors.AsType[*membership.MissingError](err)
	if !ok || !reflect.DeepEqual(missing.Names, []string{"c"}) {
		t.Errorf("%v", err)
	}
	if len(reports) != 2 {
		t.Errorf("%v", reports)
	}
}

func testAskStatusUnsendableReport(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.join(member("a", 1, 1), func(o *membership.Options) {
		o.Report = func() membership.Report { return membership.Report{SharedRequestsPerSecond: math.NaN()} }
	})
	if _, err := membership.AskStatus(soon(t), s.connect().Connection); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if p.Err() != nil || p.logged.Len() != 1 {
		t.Errorf("%v, %d log lines", p.Err(), p.logged.Len())
	}
}

func testAskStatusFoundDead(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a := member("a", 1, 1)
	var asked atomic.Int32
	s.join(a, func(o *membership.Options) {
		o.Report = func() membership.Report {
			if asked.Add(1) == 1 {
				return report(a, member("dead", 1, 1))
			}
			return report(a)
		}
	})
	reports, err := membership.AskStatus(inTime(t), s.connect().Connection)
	if err != nil || len(reports) != 1 || len(reports[0].Members) != 0 {
		t.Errorf("%v %v", reports, err)
	}
}

func testAskStatusNoInstance(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	if _, err := membership.AskStatus(inTime(t), s.connect().Connection); !errors.Is(err, membership.ErrNoInstance) {
		t.Errorf("%v", err)
	}
	if err := membership.RequestDrain(inTime(t), s.connect().Connection, "a", true); !errors.Is(err, membership.ErrNoInstance) {
		t.Errorf("%v", err)
	}
}

func testAskStatusContextOrConnectionEnds(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	over := make(chan struct{})
	defer close(over)
	s.join(member("a", 1, 1), func(o *membership.Options) {
		o.Report = func() membership.Report { <-over; return membership.Report{} }
	})
	if _, err := membership.AskStatus(soon(t), s.connect().Connection); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, membership.ErrNoInstance) {
		t.Errorf("no instance replies: %v", err)
	}
	silent := s.connect()
	silent.socket.stop()
	if _, err := membership.AskStatus(soon(t), silent.Connection); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the broker is silent: %v", err)
	}
	cut := s.connect()
	time.AfterFunc(50*time.Millisecond, cut.cut)
	if _, err := membership.AskStatus(inTime(t), cut.Connection); err == nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, membership.ErrNoInstance) {
		t.Errorf("the connection is cut: %v", err)
	}
}

func TestRequestDrain(t *testing.T) {
	t.Run("named_instance_only", testRequestDrainNamedInstanceOnly)
	t.Run("move", testRequestMove)
	t.Run("malformed_replies_ignored", testRequestDrainMalformedRepliesIgnored)
}

func testRequestDrainNamedInstanceOnly(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a, b := s.join(member("a", 1, 1), nil), s.join(member("b", 1, 1), nil)
	for _, drain := range []bool{true, false} {
		if err := membership.RequestDrain(inTime(t), s.connect().Connection, "b", drain); err != nil {
			t.Fatal(err)
		}
		if got := receive(t, b.drains); got != drain {
			t.Errorf("drain: %v", got)
		}
	}
	if err := membership.RequestDrain(soon(t), s.connect().Connection, "c", true); !errors.Is(err, membership.ErrNoInstance) {
		t.Errorf("%v", err)
	}
	if len(a.drains) > 0 {
		t.Error("another instance was drained")
	}
}

func testRequestMove(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a, b := s.join(member("a", 1, 1), nil), s.join(member("b", 1, 1), nil)
	for _, want := range []moveRequest{{0, false}, {63, false}, {63, true}} {
		if err := membership.RequestMove(inTime(t), s.connect().Connection, "b", want.partition, want.undo); err != nil {
			t.Fatal(err)
		}
		if got := receive(t, b.moves); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	if err := membership.RequestMove(soon(t), s.connect().Connection, "c", 1, false); !errors.Is(err, membership.ErrNoInstance) {
		t.Errorf("%v", err)
	}
	if len(a.moves) > 0 || len(b.drains) > 0 {
		t.Error("another instance was asked, or to drain")
	}
}

func testRequestDrainMalformedRepliesIgnored(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	channel := s.channel()
	if err := membership.Declare(channel); err != nil {
		t.Fatal(err)
	}
	if _, err := channel.QueueDeclare("stranger", false, false, true, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := channel.QueueBind("stranger", "", membership.Exchange, false, nil); err != nil {
		t.Fatal(err)
	}
	requests, err := channel.Consume("stranger", "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	var answering sync.WaitGroup
	answering.Go(func() {
		for d := range requests {
			for kind, bodies := range map[string][]string{
				"":       {`{"v":1}`},
				"report": {``, `{"v":2}`, `{"v":1}`, `{"v":1,"report":{"format":1}}`, `{"v":1,"report":{"format":1,"name":"a","version":"\u001b[2J"}}`, `{"v":1,"report":{"format":1,"name":"a","partitions":[{"partition":1}]}}`},
			} {
				for _, body := range bodies {
					channel.Publish("", d.ReplyTo, false, false, amqp.Publishing{Type: kind, CorrelationId: d.CorrelationId, Body: []byte(body)})
				}
			}
			channel.Publish("", d.ReplyTo, false, false, amqp.Publishing{Type: "taken", CorrelationId: "another", Body: []byte(`{"v":1}`)})
		}
	})
	defer answering.Wait()
	defer channel.Close()
	if reports, err := membership.AskStatus(soon(t), s.connect().Connection); !errors.Is(err, context.DeadlineExceeded) || reports != nil {
		t.Errorf("%v %v", reports, err)
	}
	if err := membership.RequestDrain(soon(t), s.connect().Connection, "a", true); !errors.Is(err, membership.ErrNoInstance) {
		t.Errorf("%v", err)
	}
}

// TestAskUser: the reply is that of the owner, or of another member if no owner is there.
func TestAskUser(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	asking := s.connect()
	s.join(member("a", 1, 1), nil)
	if r, err := membership.AskUser(soon(t), asking.Connection, 7); err != nil || r.Name != "a" || r.Epoch != 0 || r.UserID != 7 {
		t.Errorf("without an owner: %+v, %v", r, err)
	}
	serve := func(self ownership.Member, epoch int64) {
		s.join(self, func(o *membership.Options) {
			o.UserReport = func(userID int64) membership.UserReport {
				return membership.UserReport{MemberID: membership.MemberIDOf(self), UserID: userID, Partition: 3, Epoch: epoch, Phase: "owned",
					Waiting: 2, OldestSeconds: 1.5, Commit: membership.UserCommit{Stage: "in a transaction"}}
			}
		})
	}
	serve(member("b", 1, 1), 6)
	serve(member("c", 1, 1), 5) // it has not noticed that its lease has ended
	r, err := membership.AskUser(inTime(t), asking.Connection, 7)
	if err != nil || r.Name != "b" || r.Epoch != 6 || r.Waiting != 2 || r.OldestSeconds != 1.5 || r.Commit.Stage != "in a transaction" {
		t.Errorf("with owners: %+v, %v", r, err)
	}
}
