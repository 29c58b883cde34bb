package faults

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/cmd/systemtest/harness"
	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
)

// A creator creates users one after another. It sends each request again, with the
// same message_id and over a new connection if need be, until there is a reply.
type creator struct {
	url     string
	t       *testing.T
	ctx     context.Context // done when no user is to be created any more
	created []dict          // as they were created, with their ids
	retries int
}

// redialPause is between two tries to connect to a broker that is down.
const redialPause = 50 * time.Millisecond

func (b *creator) run() {
	var c *harness.Caller
	defer func() {
		if c != nil {
			c.Conn.Close()
		}
	}()
	for b.ctx.Err() == nil {
		u, id := harness.NewUser("github", "facebook"), uuid.NewString()
		begin := time.Now()
		for done := false; !done; {
			if time.Since(begin) > 2*harness.Timeout {
				b.t.Errorf("no reply within %v", 2*harness.Timeout)
				return
			}
			if c == nil || c.Conn.IsClosed() {
				var err error
				if c, err = harness.DialCaller(b.url); err != nil {
					c = nil
					wait.For(context.Background(), redialPause)
					continue
				}
			}
			done = b.try(c, id, u)
		}
	}
}

// try sends the request once. It returns false if there is no final reply.
func (b *creator) try(c *harness.Caller, messageID string, u dict) bool {
	reply, ok := tryCreate(c, messageID, u)
	if !ok || reply.ErrorCode() == "invocation_failed" {
		b.retries++
		return false
	}
	result, ok := reply.Value.(dict)["result"].(dict)
	if !ok {
		b.t.Errorf("the reply to a create is %v", reply.Value)
		return true
	}
	b.created = append(b.created, harness.Changed(u, dict{"id": result["user_id"]}))
	return true
}

// tryCreate sends a create and returns the reply. It returns false if none comes.
func tryCreate(c *harness.Caller, messageID string, u dict) (harness.Reply, bool) {
	m := c.NewRequest("create", u)
	m.MessageId = messageID
	closed := c.Conn.NotifyClose(make(chan *amqp.Error, 1))
	if c.Publish(m) != nil {
		return harness.Reply{}, false
	}
	select {
	case a := <-c.Replies(m.CorrelationId):
		return a, a.Err == nil
	case <-closed:
	case <-time.After(5 * time.Second):
	}
	return harness.Reply{}, false
}

// checkOutage runs creators while a server has an outage, and fails unless each create
// was carried out once.
func checkOutage(t *testing.T, s *harness.Site, v *harness.Instance, outage func()) {
	t.Helper()
	const before, after = 100, 100 // users
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	var all []*creator
	for range 8 {
		b := &creator{url: s.AMQPURL, t: t, ctx: ctx}
		all = append(all, b)
		running.Go(b.run)
	}
	users := func() int { return s.Count(t, "SELECT count(*) FROM users") }
	harness.Eventually(t, "users are created", func() bool { return users() > before })
	outage()
	s.DB = s.Connect(t)
	v.AwaitReady(t)
	then := users()
	harness.Eventually(t, "users are created again", func() bool { return users() > then+after })
	cancel()
	running.Wait()

	created, retries := 0, 0
	c := s.NewCaller(t)
	for _, b := range all {
		created += len(b.created)
		retries += b.retries
		for _, u := range b.created[max(0, len(b.created)-20):] {
			c.Call(t, "get", dict{"user_id": u["id"]}).IsResult(t, u)
		}
	}
	if n := users(); n != created {
		t.Errorf("%d creates made %d users", created, n)
	}
	if n := s.Count(t, "SELECT count(*) FROM services"); n != 2*created {
		t.Errorf("%d creates made %d services", created, n)
	}
	t.Logf("%d users, %d retries", created, retries)
}

// leaver and stayer are instances on sites of their own, with amqp.insist off and on.
type leaverAndStayer struct {
	leaver, stayer *harness.Instance
	stayerSite     *harness.Site
}

// startLeaverAndStayer starts both instances, the leaver under load, on sites that use
// prepares.
func startLeaverAndStayer(t *testing.T, use func(*harness.Site)) (x leaverAndStayer) {
	t.Helper()
	leaverSite := harness.NewSite(t)
	x.stayerSite = harness.NewSite(t)
	use(leaverSite)
	use(x.stayerSite)
	x.leaver = leaverSite.Serve(t)
	x.stayer = x.stayerSite.Serve(t, harness.Settings{"amqp.insist": "true"})
	loadInstance(t, leaverSite, x.leaver)
	return x
}

// checkLost fails unless, without a server, the leaver exits and the stayer is alive
// but not ready.
func (x leaverAndStayer) checkLost(t *testing.T) {
	t.Helper()
	lost := time.Now()
	if status := x.leaver.AwaitExit(t, 3*harness.GiveUpTimeout); status != 129 {
		t.Errorf("with insist = false, status %d", status)
	}
	if took := time.Since(lost); took > harness.GiveUpTimeout {
		t.Errorf("with insist = false, it took %.1f s to exit", took.Seconds())
	}
	harness.Eventually(t, "the stayer is not ready", func() bool { return x.stayer.Probe("/readyz") == http.StatusServiceUnavailable })
	if status := x.stayer.Probe("/livez"); status != http.StatusOK {
		t.Errorf("/livez: %d", status)
	}
}

func TestLostDatabase(t *testing.T) {
	t.Parallel()
	database := testservers.OwnPostgres(t, localserver.PostgresOptions{})
	x := startLeaverAndStayer(t, func(s *harness.Site) { s.UsePostgres(t, database) })
	checkOutage(t, x.stayerSite, x.stayer, func() {
		database.Kill()
		x.checkLost(t)
		restart(t, database)
	})
	x.stayer.CheckOneConnection(t)
}
