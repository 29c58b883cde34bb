package contract

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/tinylib/msgp/msgp"

	"github.com/glotpod/ident/cmd/systemtest/harness"
	"github.com/glotpod/ident/deploy/testservers"
)

// A grant is what a user of the broker may do.
type grant struct{ configure, write, read, topicWrite, topicRead string }

// grants returns what the users in deploy/guide/security.md may do, and an attacker that may use
// amq.topic for messages of its own.
func grants(t *testing.T) map[string]*grant {
	t.Helper()
	guide, err := os.ReadFile("../../../deploy/guide/security.md")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*grant{"attacker": {`^attacker\.`, `^(attacker\.|amq\.topic$)`, `^(attacker\.|amq\.topic$)`, `^attacker\.`, `^attacker\.`}}
	line := regexp.MustCompile(`(?m)^    rabbitmqctl (set_permissions|set_topic_permissions) -p / (\S+)(?: amq\.topic)? '([^']*)' '([^']*)'(?: '([^']*)')?$`)
	for _, found := range line.FindAllStringSubmatch(string(guide), -1) {
		g := all[found[2]]
		if g == nil {
			g = new(grant)
			all[found[2]] = g
		}
		if found[1] == "set_permissions" {
			g.configure, g.write, g.read = found[3], found[4], found[5]
		} else {
			g.topicWrite, g.topicRead = found[3], found[4]
		}
	}
	if len(all) != 5 {
		t.Fatalf("the guide has the users %v", all)
	}
	return all
}

// A brokerUser is a user of the broker, with everything that the broker has sent it.
type brokerUser struct {
	t        *testing.T
	login    string
	password string
	url      string
	tap      *tap
	conn     *amqp.Connection
}

// A tap records what its connections receive.
type tap struct {
	mu       sync.Mutex // guards the following field
	received []byte
}

func (p *tap) contains(token string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.Contains(p.received, []byte(token))
}

// A tapped connection is recorded.
type tapped struct {
	net.Conn
	tap *tap
}

func (c tapped) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.tap.mu.Lock()
	defer c.tap.mu.Unlock()
	c.tap.received = append(c.tap.received, b[:n]...)
	return n, err
}

// newBrokerUser makes a user of a kind.
func newBrokerUser(t *testing.T, broker *testservers.Broker, kind string, may *grant) *brokerUser {
	t.Helper()
	login := broker.NewLogin(t, kind, may.configure, may.write, may.read)
	topic := map[string]string{"exchange": "amq.topic", "write": may.topicWrite, "read": may.topicRead}
	path := "/api/topic-permissions/" + url.PathEscape(broker.VHost) + "/" + url.PathEscape(login.Name)
	if err := broker.Management.Call(t.Context(), http.MethodPut, path, topic, nil); err != nil {
		t.Fatal(err)
	}
	return &brokerUser{t: t, login: login.Name, password: login.Password, url: login.URL, tap: new(tap)}
}

// channel opens a channel over the user's connection.
func (u *brokerUser) channel() *amqp.Channel {
	u.t.Helper()
	if u.conn == nil {
		conn, err := amqp.DialConfig(u.url, amqp.Config{Dial: func(network, address string) (net.Conn, error) {
			c, err := net.DialTimeout(network, address, harness.Timeout)
			return tapped{c, u.tap}, err
		}})
		if err != nil {
			u.t.Fatal(err)
		}
		u.t.Cleanup(func() { conn.CloseDeadline(time.Now().Add(time.Second)) })
		u.conn = conn
	}
	channel, err := u.conn.Channel()
	if err != nil {
		u.t.Fatal(err)
	}
	return channel
}

// refused fails unless the broker closes the channel of an action with a code.
func (u *brokerUser) refused(what string, code int, action func(*amqp.Channel) error) {
	u.t.Helper()
	channel := u.channel()
	closed := channel.NotifyClose(make(chan *amqp.Error, 1))
	err := action(channel)
	var closedWith *amqp.Error
	if !errors.As(err, &closedWith) {
		select {
		case closedWith = <-closed:
		case <-time.After(harness.Timeout):
			u.t.Fatalf("%s: %s is allowed: %v", u.login, what, err)
		}
	}
	if closedWith == nil || closedWith.Code != code {
		u.t.Errorf("%s: %s: %v, want %d", u.login, what, closedWith, code)
	}
}

// A caller of the test asks for direct replies, which need no permission on a queue.
type directCaller struct {
	*brokerUser
	ch      *amqp.Channel
	replies <-chan amqp.Delivery
	number  int
}

func (u *brokerUser) caller() *directCaller {
	u.t.Helper()
	c := &directCaller{brokerUser: u, ch: u.channel()}
	var err error
	if c.replies, err = c.ch.Consume(harness.DirectReplyTo, "", true, false, false, false, nil); err != nil {
		u.t.Fatal(err)
	}
	return c
}

// call sends a request, by the shared queue or, with a user's id, directly, and returns the reply.
func (c *directCaller) call(operation string, args any, change ...func(m *amqp.Publishing, exchange, key *string)) dict {
	c.t.Helper()
	c.number++
	exchange, key := "amq.topic", "rpc.user."+operation
	m := amqp.Publishing{ReplyTo: harness.DirectReplyTo, CorrelationId: fmt.Sprint(c.number), MessageId: fmt.Sprint(c.login, c.number), UserId: c.login, Body: harness.Pack(args)}
	for _, f := range change {
		f(&m, &exchange, &key)
	}
	if err := c.ch.Publish(exchange, key, false, false, m); err != nil {
		c.t.Fatal(err)
	}
	for timeout := time.After(harness.Timeout); ; {
		select {
		case d, ok := <-c.replies:
			if !ok {
				c.t.Fatalf("%s %v: the channel was closed", operation, args)
			}
			if d.CorrelationId != m.CorrelationId {
				continue // a reply that came twice
			}
			tree, _, err := msgp.ReadIntfBytes(d.Body)
			if err != nil {
				c.t.Fatal(err)
			}
			return harness.Normalize(tree).(dict)
		case <-timeout:
			c.t.Fatalf("%s %v got no reply", operation, args)
		}
	}
}

func direct(id any) func(m *amqp.Publishing, exchange, key *string) {
	return func(m *amqp.Publishing, exchange, key *string) {
		m.Type, *exchange, *key = *key, "glotpod.ident", fmt.Sprint(id)
	}
}

// TestAccess: with access.tokens and the permissions of deploy/guide/security.md, nobody but the
// named login receives an access token, in whatever way.
func TestAccess(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	broker := testservers.RabbitMQ(t)
	users := make(map[string]*brokerUser)
	for kind, may := range grants(t) {
		users[kind] = newBrokerUser(t, broker, kind, may)
	}
	s.AMQPURL = broker.URL()
	s.Settings = s.Settings.With(harness.Settings{"amqp.vhost": broker.VHost, "amqp.login": users["glotpod-ident"].login, "amqp.password": users["glotpod-ident"].password,
		"access.tokens": "another, " + users["glotpod-auth"].login})
	instances := []*harness.Instance{s.Serve(t), s.Serve(t)}
	auth, api := users["glotpod-auth"].caller(), users["glotpod-api"].caller()
	subscriber := users["glotpod-mail"].subscribe()

	var created []dict
	for range 8 { // of partitions of both instances
		u := harness.NewUser("github", "facebook")
		u["id"] = auth.call("create", u)["result"].(dict)["user_id"]
		created = append(created, u)
	}
	tokens := []string{created[0]["github"].(dict)["access_token"].(string), created[0]["facebook"].(dict)["access_token"].(string)}
	for i, u := range created {
		shown := harness.AsListed(u)
		ways := map[string]func(c *directCaller) any{
			"by_id":    func(c *directCaller) any { return c.call("get", dict{"user_id": u["id"]})["result"] },
			"by_email": func(c *directCaller) any { return c.call("get", dict{"email": u["email"]})["result"] },
			"directly": func(c *directCaller) any { return c.call("get", dict{"user_id": u["id"]}, direct(u["id"]))["result"] },
		}
		for way, get := range ways {
			if got := get(auth); !reflect.DeepEqual(got, harness.Normalize(u)) {
				t.Errorf("%s: the named caller got %v", way, got)
			}
			if got := get(api); !reflect.DeepEqual(got, harness.Normalize(shown)) {
				t.Errorf("%s: another caller got %v", way, got)
			}
		}
		unnamed := api.call("get", dict{"user_id": u["id"]}, func(m *amqp.Publishing, _, _ *string) { m.UserId = "" })
		forged := api.call("get", dict{"user_id": u["id"]}, func(m *amqp.Publishing, _, _ *string) {
			m.Headers = amqp.Table{"ident-caller": append([]byte{byte(len(auth.login))}, auth.login+strings.Repeat("\x00", 16)...)}
		})
		for _, got := range []dict{unnamed, forged} {
			if !reflect.DeepEqual(got["result"], harness.Normalize(shown)) {
				t.Errorf("a caller without a name got %v", got)
			}
		}
		for path, code := range map[string]string{"/name": "patch_failed", "/email": "patch_failed", "/picture_url": "patch_failed", "/facebook/access_token": ""} {
			ops := list{opFrom("copy", "/github/access_token", path)}
			for _, way := range []func(m *amqp.Publishing, exchange, key *string){direct(u["id"]), func(*amqp.Publishing, *string, *string) {}} {
				if got, _ := api.call("patch", dict{"user_id": u["id"], "ops": ops}, way)["error"].(string); got != code {
					t.Errorf("a copy to %s: %q, want %q", path, got, code)
				}
			}
		}
		for _, ops := range []list{{op("test", "/github/access_token", u["github"].(dict)["access_token"])}, {op("test", "/github", u["github"])}, {opFrom("move", "/github", "/name")}} {
			if got := api.call("patch", dict{"user_id": u["id"], "ops": ops})["error"]; got != "patch_failed" {
				t.Errorf("%v: %v", ops, got)
			}
		}
		if i == 0 {
			written := api.call("patch", dict{"user_id": u["id"], "ops": list{op("replace", "/github/access_token", "s3cret-new"), op("test", "/github", dict{"id": u["github"].(dict)["id"]})}})
			if written["error"] != "patch_failed" { // what it has written itself, it sees
				t.Errorf("%v", written)
			}
		}
	}
	api.call("list", dict{})
	api.call("changes", dict{})
	api.call("get_many", dict{"user_ids": list{1, 2, 3}})
	subscriber()
	checkAttacks(t, s, users)
	for kind, u := range users {
		for _, token := range tokens {
			if u.tap.contains(token) && kind != "glotpod-auth" && kind != "glotpod-ident" {
				t.Errorf("%s has received a token", kind)
			}
		}
	}
	if !users["glotpod-auth"].tap.contains(tokens[0]) {
		t.Error("the tap does not see a token where there is one")
	}
	if n := s.Count(t, "SELECT count(*) FROM ident_log WHERE caller = $1", auth.login); n != len(created) {
		t.Errorf("the log has %d requests of the named caller", n)
	}
	if n := s.Count(t, "SELECT count(*) FROM ident_log WHERE caller = $1 AND code IS NOT NULL", api.login); n == 0 {
		t.Error("the log has no refusal of the other caller")
	}
	if n := s.Count(t, "SELECT count(*) FROM ident_log WHERE position(ident_log::text IN $1) > 0", tokens[0]); n != 0 {
		t.Error("the log has a token")
	}
	metrics := instances[0].Fetch(t, "/metrics") + instances[1].Fetch(t, "/metrics")
	for _, c := range []*directCaller{auth, api} {
		if !strings.Contains(metrics, fmt.Sprintf("glotpod_ident_caller_requests_total{caller=%q}", c.login)) {
			t.Errorf("the metrics do not have the caller %s", c.login)
		}
	}
}

// subscribe consumes notifications. The result waits for one of each user that was created.
func (u *brokerUser) subscribe() (wait func()) {
	u.t.Helper()
	channel := u.channel()
	if _, err := channel.QueueDeclare("glotpod-mail.notifications", false, true, true, false, nil); err != nil {
		u.t.Fatal(err)
	}
	if err := channel.QueueBind("glotpod-mail.notifications", "notifications.user.#", "amq.topic", false, nil); err != nil {
		u.t.Fatal(err)
	}
	deliveries, err := channel.Consume("glotpod-mail.notifications", "", true, true, false, false, nil)
	if err != nil {
		u.t.Fatal(err)
	}
	return func() {
		u.t.Helper()
		for range 8 + 8 {
			select {
			case <-deliveries:
			case <-time.After(harness.Timeout):
				u.t.Fatal("a notification is missing")
			}
		}
	}
}

// checkAttacks tries what the broker must refuse.
func checkAttacks(t *testing.T, s *harness.Site, users map[string]*brokerUser) {
	t.Helper()
	const forbidden = amqp.AccessRefused
	message := func(user string) amqp.Publishing { return amqp.Publishing{UserId: user, Body: []byte{0xc0}} }
	for _, kind := range []string{"attacker", "glotpod-mail", "glotpod-api"} {
		u := users[kind]
		for _, key := range []string{"rpc.user.#", "rpc.user.get", "rpc.#", "#", "*.user.*", "rpc.*.get", "rpc.user.*"} {
			u.refused("binding a queue to "+key, forbidden, func(c *amqp.Channel) error {
				if _, err := c.QueueDeclare(kind+".tap", false, true, true, false, nil); err != nil {
					return err
				}
				return c.QueueBind(kind+".tap", key, "amq.topic", false, nil)
			})
		}
		u.refused("binding an exchange", forbidden, func(c *amqp.Channel) error {
			if err := c.ExchangeDeclare(kind+".tap", "fanout", false, true, false, false, nil); err != nil {
				return err
			}
			return c.ExchangeBind(kind+".tap", "rpc.user.#", "amq.topic", false, nil)
		})
		u.refused("publishing a notification", forbidden, func(c *amqp.Channel) error {
			return c.Publish("amq.topic", "notifications.user.create", false, false, message(""))
		})
		u.refused("publishing to a partition's queue", forbidden, func(c *amqp.Channel) error {
			return c.Publish("", "glotpod.rpc/ident/0000", false, false, message(""))
		})
		u.refused("consuming requests", forbidden, func(c *amqp.Channel) error {
			_, err := c.Consume(harness.RequestQueue, "", false, false, false, false, nil)
			return err
		})
		u.refused("reading a trace", forbidden, func(c *amqp.Channel) error {
			return c.QueueBind(kind+".tap", "#", "amq.rabbitmq.trace", false, nil)
		})
	}
	users["attacker"].refused("sending a request", forbidden, func(c *amqp.Channel) error {
		return c.Publish("amq.topic", "rpc.user.get", false, false, message(""))
	})
	for _, exchange := range []string{"amq.topic", "glotpod.ident"} {
		users["glotpod-api"].refused("another login", amqp.PreconditionFailed, func(c *amqp.Channel) error {
			return c.Publish(exchange, "rpc.user.get", false, false, message(users["glotpod-auth"].login))
		})
	}
}
