package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/config"
)

// managementFacts are what only the management API tells. What it refuses is left empty, and in
// the report as unchecked.
type managementFacts struct {
	nodes       []managedNode
	queues      []managedQueue      // of the service
	limits      managedLimits       // without what other programs use
	bindings    []managedBinding    // of amq.topic
	permissions []managedPermission // in the virtual host
	topics      []managedPermission // topic permissions for amq.topic
	ahead       time.Duration       // of the broker's clock, at least; negative: it is behind
}

type managedNode struct {
	Name      string `json:"name"`
	Running   bool   `json:"running"`
	MemAlarm  bool   `json:"mem_alarm"`
	DiskAlarm bool   `json:"disk_free_alarm"`
}

type managedQueue struct {
	Name           string         `json:"name"`
	Type           string         `json:"type"`
	Arguments      map[string]any `json:"arguments"`
	Policy         string         `json:"policy"` // its name
	OperatorPolicy string         `json:"operator_policy"`
	policies       map[string]any // what both of them set
}

type managedPolicy struct {
	Name       string         `json:"name"`
	Definition map[string]any `json:"definition"`
}

// policy returns the value of a key of the queue's policies. There is none for a nil queue.
func (q *managedQueue) policy(key string) (value any, set bool) {
	if q != nil {
		value, set = q.policies[key]
	}
	return value, set
}

// managedLimits are those of the virtual host and of the user. nil: no limit.
type managedLimits struct {
	Queues      *int `json:"max-queues"`
	Connections *int `json:"max-connections"`
}

type managedConnection struct {
	VHost  string `json:"vhost"`
	User   string `json:"user"`
	Client struct {
		Product string `json:"product"`
	} `json:"client_properties"`
}

type managedBinding struct {
	Destination     string `json:"destination"`
	DestinationType string `json:"destination_type"`
	RoutingKey      string `json:"routing_key"`
}

type managedPermission struct {
	User     string `json:"user"`
	Exchange string `json:"exchange"`
	Write    string `json:"write"`
	Read     string `json:"read"`
}

// queue returns a queue of the service, nil if there is none or the API was not asked.
func (f *managementFacts) queue(name string) *managedQueue {
	if f != nil {
		for i := range f.queues {
			if f.queues[i].Name == name {
				return &f.queues[i]
			}
		}
	}
	return nil
}

// A managementClient asks the management API.
type managementClient struct {
	base           *url.URL
	user, password string
	http           *http.Client
	ahead          time.Duration
}

// askManagement collects the facts. It returns nil if the API cannot be used.
func askManagement(ctx context.Context, base string, c *config.Config, r *report) *managementFacts {
	const what = "what only the management API of RabbitMQ tells"
	client, err := newManagementClient(base, c)
	if err == nil {
		err = client.get(ctx, "/api/whoami", nil)
	}
	if err != nil {
		r.skip(what, "%v", err)
		return nil
	}
	defer client.http.CloseIdleConnections()
	f := &managementFacts{ahead: client.ahead}
	vhost := url.PathEscape(c.AMQP.VHost)
	var policies, operatorPolicies []managedPolicy
	var limits, userLimits []struct {
		Value managedLimits `json:"value"`
	}
	var connections []managedConnection
	for _, question := range []struct {
		what, path string
		into       any
	}{
		{"the nodes of RabbitMQ and their alarms", "/api/nodes", &f.nodes},
		{"the queues", "/api/queues/" + vhost + "?disable_stats=true", &f.queues},
		{"the policies", "/api/policies/" + vhost, &policies},
		{"the operator policies", "/api/operator-policies/" + vhost, &operatorPolicies},
		{"the limits of the virtual host", "/api/vhost-limits/" + vhost, &limits},
		{"the limits of the user", "/api/user-limits/" + url.PathEscape(c.AMQP.Login), &userLimits},
		{"the connections of other programs", "/api/connections?columns=vhost,user,client_properties.product", &connections},
		{"which queues are bound to amq.topic", "/api/exchanges/" + vhost + "/" + cluster.RequestExchange + "/bindings/source", &f.bindings},
		{"who may use amq.topic and the queues of the service", "/api/vhosts/" + vhost + "/permissions", &f.permissions},
		{"who may read and write what there", "/api/vhosts/" + vhost + "/topic-permissions", &f.topics},
	} {
		if err := client.get(ctx, question.path, question.into); err != nil {
			r.skip(question.what, "%v", err)
		}
	}
	others := f.keepOwn()
	inVHost, ofUser := countOthers(connections, c.AMQP.VHost, c.AMQP.Login)
	for _, l := range limits {
		f.limits.Queues = lower(f.limits.Queues, without(l.Value.Queues, others))
		f.limits.Connections = lower(f.limits.Connections, without(l.Value.Connections, inVHost))
	}
	for _, l := range userLimits {
		f.limits.Connections = lower(f.limits.Connections, without(l.Value.Connections, ofUser))
	}
	for i := range f.queues {
		q := &f.queues[i]
		q.policies = make(map[string]any)
		for _, p := range policies {
			if p.Name == q.Policy {
				maps.Copy(q.policies, p.Definition)
			}
		}
		for _, p := range operatorPolicies {
			if p.Name == q.OperatorPolicy {
				maps.Copy(q.policies, p.Definition)
			}
		}
	}
	return f
}

// countOthers counts the connections of other programs, in a virtual host and of a user.
func countOthers(connections []managedConnection, vhost, user string) (inVHost, ofUser int) {
	for _, c := range connections {
		if c.Client.Product == "glotpod.ident" {
			continue
		}
		if c.VHost == vhost {
			inVHost++
		}
		if c.User == user {
			ofUser++
		}
	}
	return inVHost, ofUser
}

// without returns what a limit leaves when some is used. A negative limit, like nil, is none.
func without(limit *int, used int) *int {
	if limit == nil || *limit < 0 {
		return nil
	}
	return new(max(*limit-used, 0))
}

// keepOwn drops what does not concern the service. others is how many queues other programs have.
func (f *managementFacts) keepOwn() (others int) {
	queues := f.queues[:0]
	for _, q := range f.queues {
		if q.Name == cluster.RequestQueue || strings.HasPrefix(q.Name, cluster.RequestQueue+"/") {
			queues = append(queues, q)
		} else if !strings.HasPrefix(q.Name, cluster.DirectExchange+".") { // of an instance
			others++
		}
	}
	f.queues = queues
	topics := f.topics[:0]
	for _, t := range f.topics {
		if t.Exchange == cluster.RequestExchange {
			topics = append(topics, t)
		}
	}
	f.topics = topics
	return others
}

// lower returns the lower limit. A negative limit, like nil, is none.
func lower(a, b *int) *int {
	if b == nil || *b < 0 || a != nil && *a <= *b {
		return a
	}
	return b
}

func newManagementClient(base string, c *config.Config) (*managementClient, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("--management-url is no URL like http://rabbitmq:15672")
	}
	client := &managementClient{base: u, user: c.AMQP.Login, password: c.AMQP.Password.Reveal(), http: new(http.Client)}
	if u.User != nil {
		client.user = u.User.Username()
		client.password, _ = u.User.Password()
		u.User = nil
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if tlsConfig, err := c.AMQP.TLSConfig(); err == nil && tlsConfig != nil {
		tlsConfig.ServerName = "" // that of the URL
		transport.TLSClientConfig = tlsConfig
	}
	client.http.Transport = transport
	return client, nil
}

// maxReply bounds the size of a reply in bytes: a virtual host may have many queues.
const maxReply = 64 << 20

// get asks for a document, and decodes it unless into is nil.
func (c *managementClient) get(ctx context.Context, path string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(c.base.String(), "/")+path, nil)
	if err != nil {
		return err
	}
	request.SetBasicAuth(c.user, c.password)
	asked := time.Now()
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the management API replies to %s with %s", path, response.Status)
	}
	if date, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		c.ahead = offset(date, date.Add(time.Second), asked, time.Now())
	}
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, response.Body, maxReply)).Decode(into); err != nil {
		return fmt.Errorf("the management API has an unknown reply to %s: %w", path, err)
	}
	return nil
}

// offset returns by how much another clock is ahead at least, or, negative, behind. The other clock
// showed a time between earliest and latest at a moment between before and after by this clock.
func offset(earliest, latest, before, after time.Time) time.Duration {
	return max(0, earliest.Sub(after)) + min(0, latest.Sub(before))
}
