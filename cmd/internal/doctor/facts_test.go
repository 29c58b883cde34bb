package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
)

// healthyBroker are the facts about a broker without faults.
func healthyBroker(version string) *brokerFacts {
	return &brokerFacts{
		version: version, nodes: 1, channels: 2047, frame: 128 << 10, plugin: true, largest: 6 << 20, served: true,
		shared: queueFacts{true, "classic"}, partition: queueFacts{true, "classic"},
	}
}

// threeNodes are facts of the management API.
func threeNodes(shared managedQueue) *managementFacts {
	shared.Name = cluster.RequestQueue
	node := func(name string) managedNode { return managedNode{Name: name, Running: true} }
	return &managementFacts{nodes: []managedNode{node("a"), node("b"), node("c")}, queues: []managedQueue{shared}}
}

// healthyDatabase are the facts about a database without faults.
func healthyDatabase() *databaseFacts {
	return &databaseFacts{
		version: 170004, allowed: 97, encoding: "UTF8", ctype: "C.UTF-8",
		settings: map[string]string{"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "synchronous_standby_names": ""},
	}
}

// facts change the facts about servers without faults so that there is a finding, by its id. They
// stand for servers that this machine does not have.
var facts = map[string]func(*config.Config, *brokerFacts, *databaseFacts){
	"broker-version":         func(_ *config.Config, f *brokerFacts, _ *databaseFacts) { f.version = "3.9.29" },
	"broker-version-untried": func(_ *config.Config, f *brokerFacts, _ *databaseFacts) { f.version = "4.10.0" },
	"broker-plugin":          func(_ *config.Config, f *brokerFacts, _ *databaseFacts) { f.plugin = false },
	"broker-channels":        func(_ *config.Config, f *brokerFacts, _ *databaseFacts) { f.channels = 80 },
	"broker-connections":     func(_ *config.Config, f *brokerFacts, _ *databaseFacts) { f.refused = errors.New("limit") },
	"broker-frames":          func(_ *config.Config, f *brokerFacts, _ *databaseFacts) { f.frame = 4096 },
	"broker-message-size":    func(_ *config.Config, f *brokerFacts, _ *databaseFacts) { f.largest = 0 },
	"broker-notifications":   func(_ *config.Config, f *brokerFacts, _ *databaseFacts) { f.largest = pageBytes },
	"broker-nodes-down": func(_ *config.Config, f *brokerFacts, _ *databaseFacts) {
		f.management = &managementFacts{nodes: []managedNode{{Name: "a"}}}
	},
	"broker-two-nodes": func(_ *config.Config, f *brokerFacts, _ *databaseFacts) {
		f.management = &managementFacts{nodes: []managedNode{{Name: "a", Running: true}, {Name: "b", Running: true}}}
	},
	"broker-alarm": func(_ *config.Config, f *brokerFacts, _ *databaseFacts) {
		f.management = &managementFacts{nodes: []managedNode{{Name: "a", Running: true, DiskAlarm: true}}}
	},
	"broker-clock": func(_ *config.Config, f *brokerFacts, _ *databaseFacts) {
		f.management = &managementFacts{ahead: -time.Hour}
	},
	"broker-queues": func(_ *config.Config, f *brokerFacts, _ *databaseFacts) {
		f.management = &managementFacts{limits: managedLimits{Queues: new(65)}}
	},
	"shared-queue-one-node": func(_ *config.Config, f *brokerFacts, _ *databaseFacts) { f.version, f.nodes = "4.0.5", 3 },
	"partition-one-node":    func(_ *config.Config, f *brokerFacts, _ *databaseFacts) { f.nodes = 3 },
	"disconnected-timeout": func(_ *config.Config, f *brokerFacts, _ *databaseFacts) {
		f.version, f.shared.kind, f.management = "4.3.6", "quorum", threeNodes(managedQueue{Type: "quorum"})
	},
	"cluster": func(_ *config.Config, f *brokerFacts, _ *databaseFacts) { f.problems = []string{"one does not reply"} },

	"database-version":         func(_ *config.Config, _ *brokerFacts, f *databaseFacts) { f.version = 140011 },
	"database-version-untried": func(_ *config.Config, _ *brokerFacts, f *databaseFacts) { f.version = 190000 },
	"standby-asynchronous":     func(_ *config.Config, _ *brokerFacts, f *databaseFacts) { f.standbys = 1 },
	"standby-commit": func(_ *config.Config, _ *brokerFacts, f *databaseFacts) {
		f.settings["synchronous_standby_names"], f.settings["synchronous_commit"] = "*", "remote_write"
	},
	"standby-away":      func(_ *config.Config, _ *brokerFacts, f *databaseFacts) { f.waits = true },
	"database-encoding": func(_ *config.Config, _ *brokerFacts, f *databaseFacts) { f.encoding = "LATIN1" },
	"database-ctype":    func(_ *config.Config, _ *brokerFacts, f *databaseFacts) { f.ctype = "C" },
	"clock":             func(_ *config.Config, _ *brokerFacts, f *databaseFacts) { f.ahead = -2 * time.Minute },
	"clock-drift":       func(_ *config.Config, _ *brokerFacts, f *databaseFacts) { f.ahead = 5 * time.Second },

	"broker-silent": nil, // tested by TestSilentBroker

	// Tested by TestCertificates.
	"client-certificate": nil, "client-certificate-soon": nil, "http-certificate": nil, "http-certificate-soon": nil, "broker-certificate-soon": nil, "database-certificate": nil, "database-certificate-soon": nil,
}

// check runs all checks on facts.
func check(c *config.Config, b *brokerFacts, d *databaseFacts) *report {
	r := newReport()
	for _, check := range brokerChecks {
		check(c, b, 1, r)
	}
	for _, check := range databaseChecks {
		check(c, d, 1, r)
	}
	return r
}

func TestFacts(t *testing.T) {
	t.Run("healthy", func(t *testing.T) {
		for _, version := range []string{"3.10.8", "3.13.7", "4.0.5", "4.3.6"} {
			if r := check(settings(t, firstKey), healthyBroker(version), healthyDatabase()); len(r.Findings) > 0 {
				t.Errorf("%s: %v", version, r.Findings)
			}
		}
	})
	for id, change := range facts {
		if change == nil {
			continue
		}
		t.Run(id, func(t *testing.T) {
			c, b, d := settings(t, firstKey), healthyBroker("3.10.8"), healthyDatabase()
			change(c, b, d)
			wantFinding(t, check(c, b, d), id)
		})
	}
}

// A shared queue that keeps its requests when a node is lost is no finding.
func TestSharedQueueOfSeveralNodes(t *testing.T) {
	mirrored := managedQueue{Type: "classic", policies: map[string]any{"ha-mode": "all"}}
	for name, test := range map[string]struct {
		version, kind string
		found         bool
		management    *managementFacts
		id            string // "": none
		unchecked     bool
	}{
		"quorum":                   {"4.0.5", "quorum", true, nil, "", false},
		"quorum_with_arguments":    {"4.0.5", "", true, threeNodes(managedQueue{Type: "quorum"}), "", false},
		"unknown_with_arguments":   {"4.0.5", "", true, nil, "", true},
		"classic":                  {"4.0.5", "classic", true, nil, "shared-queue-one-node", false},
		"old_policy_in_new_broker": {"4.0.5", "classic", true, threeNodes(mirrored), "shared-queue-one-node", false},
		"to_be_classic":            {"4.0.5", "classic", false, nil, "shared-queue-one-node", false},
		"to_be_quorum":             {"4.0.5", "quorum", false, nil, "", false},
		"mirrored":                 {"3.13.7", "classic", true, threeNodes(mirrored), "", false},
		"not_mirrored":             {"3.13.7", "classic", true, threeNodes(managedQueue{Type: "classic"}), "shared-queue-one-node", false},
		"perhaps_mirrored":         {"3.13.7", "classic", true, nil, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			f := healthyBroker(test.version)
			f.nodes, f.served, f.management = 3, false, test.management
			if f.shared.found = test.found; test.found {
				f.shared.kind = test.kind
			} else {
				f.shared.kind, f.defaultKind = "", test.kind
			}
			r := newReport()
			checkSharedQueue(nil, f, 1, r)
			if got := strings.Join(r.ids(), ","); got != test.id || (len(r.Unchecked) > 0) != test.unchecked {
				t.Errorf("findings %v, unchecked %v", r.Findings, r.Unchecked)
			}
		})
	}
}

func TestCertificates(t *testing.T) {
	now := time.Now()
	for left, want := range map[time.Duration]string{
		-time.Hour: "-certificate", 6 * day: "-certificate", 8 * day: "-certificate-soon", 29 * day: "-certificate-soon", 31 * day: "",
	} {
		for _, prefix := range []string{"broker", "database"} {
			r := newReport()
			checkCertificate(prefix, "of host:1", &x509.Certificate{NotAfter: now.Add(left)}, now, r)
			if got := strings.Join(r.ids(), ","); want == "" && got != "" || want != "" && got != prefix+want {
				t.Errorf("%s: %q", left, got)
			}
		}
	}
	t.Run("in_files", func(t *testing.T) {
		c := settings(t, firstKey)
		c.AMQP.SSLCert, c.AMQP.SSLKey = testservers.NewAuthority(t).Issue(t, "client")
		c.HTTP.SSLCert, c.HTTP.SSLKey = testservers.NewAuthority(t).Issue(t, "server")
		pair, err := tls.LoadX509KeyPair(c.AMQP.SSLCert, c.AMQP.SSLKey)
		if err != nil {
			t.Fatal(err)
		}
		for left, suffix := range map[time.Duration]string{-72 * time.Hour: "", 6 * day: "", 20 * day: "-soon"} {
			r := newReport()
			checkInstanceCertificates(c, pair.Leaf.NotAfter.Add(-left), r)
			wantFinding(t, r, "client-certificate"+suffix)
			wantFinding(t, r, "http-certificate"+suffix)
			if text := r.Findings[0].Seen; strings.Contains(text, "more days") != (left > 0) {
				t.Errorf("%s: %s", left, text)
			}
		}
	})
	t.Run("of_another_authority", func(t *testing.T) {
		if !isTLSError(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}) {
			t.Error("no TLS error")
		}
	})
}

// TestAdminToken: a token that a network can see is noticed.
func TestAdminToken(t *testing.T) {
	for name, test := range map[string]struct {
		http config.HTTP
		want int
	}{
		"plain":        {config.HTTP{Listen: "0.0.0.0:8470", AdminTokenFile: "t"}, 1},
		"all":          {config.HTTP{Listen: ":8470", AdminTokenFile: "t"}, 1},
		"loopback":     {config.HTTP{Listen: "127.0.0.1:8470", AdminTokenFile: "t"}, 0},
		"TLS":          {config.HTTP{Listen: "0.0.0.0:8470", AdminTokenFile: "t", SSLCert: "c"}, 0},
		"no token":     {config.HTTP{Listen: "0.0.0.0:8470"}, 0},
		"no listening": {config.HTTP{AdminTokenFile: "t"}, 0},
	} {
		r := newReport()
		if checkAdminToken(&test.http, r); len(r.Findings) != test.want {
			t.Errorf("%s: %v", name, r.ids())
		}
	}
}

// TestSilentBroker suspends a queue, as a node without a majority of the others does.
func TestSilentBroker(t *testing.T) {
	t.Parallel()
	s, r := newSite(t), newReport()
	s.addBroker()
	s.manage()
	s.declare(cluster.RequestQueue, "classic")
	s.broker.SuspendQueue(t, cluster.RequestQueue)
	s.options.timeout = 2 * time.Second
	examineBroker(t.Context(), s.load(), s.options, r)
	wantFinding(t, r, "broker-silent")
}

// TestRepartitioned: after a repartition, the partition queues are those of the present generation.
func TestRepartitioned(t *testing.T) {
	t.Parallel()
	s := newWholeSite(t)
	if _, err := connectTo(t, s.database.URL()).Exec(t.Context(), "INSERT INTO ident_cluster (first, partitions, queue_type, table_version) VALUES (4, 3, 'quorum', $1)", ownership.TableVersion); err != nil {
		t.Fatal(err)
	}
	s.declare(cluster.RequestQueue, "classic")
	s.declare(cluster.PartitionQueue(0), "classic") // of the first generation, which is not deleted yet
	s.declare(cluster.PartitionQueue(4), "quorum")
	wantFinding(t, examine(t.Context(), s.environ(), s.options), "partition-quorum")
}

// TestStandby takes the synchronous standby away from a server.
func TestStandby(t *testing.T) {
	t.Parallel()
	s, r := newSite(t), newReport()
	own := testservers.OwnPostgres(t, localserver.PostgresOptions{})
	conn := connectTo(t, own.URL("postgres"))
	if _, err := conn.Exec(t.Context(), "ALTER SYSTEM SET synchronous_standby_names = 'away'"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "SELECT pg_reload_conf()"); err != nil {
		t.Fatal(err)
	}
	s.usePostgres(own)
	examineDatabase(t.Context(), s.load(), s.options, r)
	wantFinding(t, r, "standby-away")
	t.Run("no_time", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		f := databaseFacts{settings: map[string]string{"synchronous_standby_names": "away"}}
		if f.waitsForStandby(ctx, connectTo(t, own.URL("postgres"))) {
			t.Error("the end of the examination counts as the absence of a standby")
		}
	})
	t.Run("no_name", func(t *testing.T) {
		f := databaseFacts{settings: map[string]string{"synchronous_standby_names": ""}}
		if f.waitsForStandby(t.Context(), connectTo(t, own.URL("postgres"))) {
			t.Error("a slow commit counts as the absence of a standby that has no name")
		}
	})
}

func TestTopic(t *testing.T) {
	for key, want := range map[string]bool{
		"#": true, "rpc.#": true, "rpc.user.#": true, "rpc.*.get": true, "*.user.patch": true, "#.get": true, "rpc.user.*": true,
		"notifications.#": false, "rpc": false, "rpc.user": false, "rpc.user.get.more": false, "rpc.group.#": false, "*": false,
	} {
		if got := getsRequests(key); got != want {
			t.Errorf("%s: %v", key, got)
		}
	}
}

func TestTopicPermissions(t *testing.T) {
	for read, want := range map[string]bool{
		"": false, "^notifications\\.": false, ".*": true, "^rpc\\.": true,
		`^rpc\.#$`: true, `^rpc\.\*\.\*$`: true, `^\*\.user\.\*$`: true, `^\*\.\*\.\*$`: true, `^#\.get$`: true, `^#\.more$`: false,
	} {
		m := &managementFacts{
			permissions: []managedPermission{{User: "ident", Read: ".*"}, {User: "web", Read: "^amq"}, {User: "other", Read: "^other"}},
			topics:      []managedPermission{{User: "web", Exchange: "amq.topic", Read: read}},
		}
		r := newReport()
		if m.checkUsers("ident", r); slices.Contains(r.ids(), "requests-readable") != want || len(r.ids()) > 1 {
			t.Errorf("read %q: %v", read, r.Findings)
		}
	}
	for write, want := range map[string]bool{"": false, "^rpc\\.user\\.": false, ".*": true, "^notifications": true} {
		m := &managementFacts{
			permissions: []managedPermission{{User: "ident", Write: ".*"}, {User: "web", Write: "^amq"}, {User: "other", Write: "^other"}},
			topics:      []managedPermission{{User: "web", Exchange: "amq.topic", Write: write}},
		}
		r := newReport()
		if m.checkUsers("ident", r); slices.Contains(r.ids(), "notifications-writable") != want || len(r.ids()) > 1 {
			t.Errorf("write %q: %v", write, r.Findings)
		}
	}
	for queue, want := range map[string]bool{"^glotpod.rpc/ident$": true, "^glotpod.rpc/ident/": true, "^glotpod.rpc/api": false} {
		m := &managementFacts{permissions: []managedPermission{{User: "web", Read: queue}}}
		r := newReport()
		if m.checkUsers("ident", r); slices.Contains(r.ids(), "requests-readable") != want {
			t.Errorf("queue %q: %v", queue, r.Findings)
		}
	}
}

func TestOffset(t *testing.T) {
	at := time.Now()
	after := at.Add(time.Second)
	for ahead, want := range map[time.Duration]time.Duration{
		0: 0, time.Second / 2: 0, 10 * time.Second: 9 * time.Second, -10 * time.Second: -10 * time.Second,
	} {
		if got := offset(at.Add(ahead), at.Add(ahead), at, after); got != want {
			t.Errorf("%s: %s, want %s", ahead, got, want)
		}
	}
}
