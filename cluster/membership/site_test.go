package membership_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"go.uber.org/zap/zaptest/observer"

	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/deploy/testservers"
)

// patience is far longer than a slow machine needs.
const patience = 30 * time.Second

// A site is a virtual host in which members meet.
type site struct {
	t     testing.TB
	vhost *testservers.Broker
}

func newSite(t testing.TB) *site {
	t.Helper()
	return &site{t, testservers.RabbitMQ(t)}
}

// A link is a connection to the broker that can be stopped or cut, as by the death of
// the process.
type link struct {
	*amqp.Connection
	socket *gate
}

// A gate is a connection that can make its writes wait.
type gate struct {
	net.Conn
	mu    sync.Mutex    // guards the following field
	shut  chan struct{} // closed to let writes continue; nil if they do
	ended chan struct{} // closed with the connection
	end   sync.Once
}

func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	if shut != nil {
		select {
		case <-shut:
		case <-g.ended:
			return 0, net.ErrClosed
		}
	}
	return g.Conn.Write(p)
}

func (g *gate) Close() error {
	g.end.Do(func() { close(g.ended) })
	return g.Conn.Close()
}

// stop makes writes wait until the returned function is called.
func (g *gate) stop() (resume func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	shut := make(chan struct{})
	g.shut = shut
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.shut = nil
		close(shut)
	}
}

func (s *site) connect() *link {
	s.t.Helper()
	l := new(link)
	conn, err := amqp.DialConfig(s.vhost.URL(), amqp.Config{Dial: func(network, address string) (net.Conn, error) {
		socket, err := net.Dial(network, address)
		if err != nil {
			return nil, err
		}
		l.socket = &gate{Conn: socket, ended: make(chan struct{})}
		return l.socket, nil
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	l.Connection = conn
	s.t.Cleanup(func() { conn.CloseDeadline(time.Now().Add(time.Second)) })
	return l
}

// cut closes the connection as the death of its process would.
func (l *link) cut() { l.socket.Close() }

// A peer is a member under test.
type peer struct {
	*membership.Membership
	t      testing.TB
	link   *link
	self   ownership.Member
	events chan ownership.Event
	drains chan bool
	moves  chan moveRequest
	logged *observer.ObservedLogs
}

// A moveRequest has what a member was asked to move.
type moveRequest struct {
	partition int
	undo      bool
}

func member(name string, start, session int64) ownership.Member {
	return ownership.Member{Name: name, Incarnation: ownership.Incarnation{Start: start, Session: session}}
}

// join joins over a connection of its own. change may be nil.
func (s *site) join(self ownership.Member, change func(*membership.Options)) *peer {
	s.t.Helper()
	core, logged := observer.New(zap.DebugLevel)
	p := &peer{
		t: s.t, link: s.connect(), self: self, logged: logged,
		events: make(chan ownership.Event, 10_000),
		drains: make(chan bool, 100),
		moves:  make(chan moveRequest, 100),
	}
	o := membership.Options{
		Self:   self,
		Report: func() membership.Report { return report(self) },
		UserReport: func(userID int64) membership.UserReport {
			return membership.UserReport{MemberID: membership.MemberIDOf(self), UserID: userID}
		},
		OnEvent: func(e ownership.Event) {
			select {
			case p.events <- e:
			default:
				panic("more events than the test expects")
			}
		},
		OnDrain: func(drain bool) { p.drains <- drain },
		OnMove:  func(partition int, undo bool) { p.moves <- moveRequest{partition, undo} },
		Log:     zap.New(core),
	}
	if change != nil {
		change(&o)
	}
	m, err := membership.Join(s.t.Context(), p.link.Connection, o)
	if err != nil {
		s.t.Fatal(err)
	}
	p.Membership = m
	s.t.Cleanup(func() {
		p.link.CloseDeadline(time.Now().Add(time.Second))
		m.Close()
	})
	return p
}

// report returns the report of a ready member that knows the others.
func report(self ownership.Member, others ...ownership.Member) membership.Report {
	status := ownership.Status{Self: self, State: ownership.Ready}
	for _, o := range others {
		status.Members = append(status.Members, ownership.MemberStatus{Member: o, State: ownership.Ready, Alive: true})
	}
	r := membership.NewReport(status)
	r.Parameters.Partitions = 8
	return r
}

// next returns the next event.
func (p *peer) next() ownership.Event {
	p.t.Helper()
	return receive(p.t, p.events)
}

// flush waits until the broker has confirmed all messages of the peer.
func (p *peer) flush() {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	if err := p.Flush(ctx); err != nil {
		p.t.Fatal(err)
	}
}

// awaitLoss waits until the membership is lost, and returns the reason.
func (p *peer) awaitLoss() error {
	p.t.Helper()
	receive(p.t, p.Done())
	err := p.Err()
	if err == nil {
		p.t.Fatal("membership lost without a reason")
	}
	return err
}

func receive[T any](t testing.TB, from <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(patience):
		t.Fatal("timed out")
	}
	return v
}

// channel opens a channel of a client that is no member.
func (s *site) channel() *amqp.Channel {
	s.t.Helper()
	channel, err := s.connect().Channel()
	if err != nil {
		s.t.Fatal(err)
	}
	return channel
}

func zapTest(t testing.TB) *zap.Logger { return zaptest.NewLogger(t) }
