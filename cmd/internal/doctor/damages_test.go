package doctor

import (
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
)

// wrongSettings change the settings so that there is a finding, by its id.
var wrongSettings = map[string]func(s *site){
	"settings":         func(s *site) { s.set("amqp.port", "none") },
	"settings-warning": func(s *site) { s.set("database.encryption_key", firstKey[:len(firstKey)-2]+"J=") },
	"http-plain": func(s *site) {
		file := filepath.Join(s.t.TempDir(), "token")
		if err := os.WriteFile(file, []byte("correct-horse-battery-staple"), 0o600); err != nil {
			s.t.Fatal(err)
		}
		s.set("http.listen", "0.0.0.0:8470")
		s.set("http.admin_token_file", file)
	},
}

// brokerDamages do something to the broker, or to what leads there, so that there is a finding.
var brokerDamages = map[string]func(s *site){
	"broker-name":        func(s *site) { s.set("amqp.host", "nowhere.invalid") },
	"broker-unreachable": func(s *site) { s.set("amqp.port", "1") },
	"broker-tls":         func(s *site) { s.serveTLS(); s.set("amqp.ssl_server_name", "other.example") },
	"broker-certificate": func(s *site) { s.serveTLS() },
	"broker-plain":       func(s *site) { s.set("amqp.host", "0.0.0.0") },
	"broker-login":       func(s *site) { s.set("amqp.password", "wrong") },
	"broker-permission": func(s *site) {
		s.set("amqp.login", s.user("^glotpod", "^glotpod", "^(glotpod|amq\\.)"))
		s.set("amqp.password", "secret")
	},
	"broker-queues":      func(s *site) { s.put("/api/vhost-limits/%s/max-queues", limit(0)) },
	"broker-not-allowed": func(s *site) { s.put("/api/vhost-limits/%s/max-connections", limit(0)) },
	"shared-queue-missing": func(s *site) {
		if err := s.channel().ExchangeDeclare(membership.Exchange, "fanout", true, false, false, false, nil); err != nil {
			s.t.Fatal(err)
		}
	},
	"shared-queue-stream": func(s *site) { s.declare(cluster.RequestQueue, "stream") },
	"partition-quorum":    func(s *site) { s.declare(cluster.PartitionQueue(0), "quorum") },
	"queue-policy": func(s *site) {
		s.manage()
		s.declare(cluster.RequestQueue, "quorum")
		s.put("/api/policies/%s/limit", map[string]any{"pattern": "ident", "definition": map[string]int{"delivery-limit": 2}})
	},
	"requests-copied": func(s *site) {
		s.manage()
		c := s.channel()
		if _, err := c.QueueDeclare("spy", true, false, false, false, nil); err != nil {
			s.t.Fatal(err)
		}
		if err := c.QueueBind("spy", "rpc.*.*", "amq.topic", false, nil); err != nil {
			s.t.Fatal(err)
		}
	},
	"requests-readable":      func(s *site) { s.manage(); s.user("", "", "amq.topic") },
	"notifications-writable": func(s *site) { s.manage(); s.user("", "amq.topic", "") },
}

// databaseDamages do the same to the database.
var databaseDamages = map[string]func(s *site){
	"database-name":       func(s *site) { s.set("database.postgres.host", "nowhere.invalid") },
	"database-tls":        func(s *site) { s.set("database.postgres.sslmode", "require") },
	"database-unverified": func(s *site) { s.set("database.postgres.host", "0.0.0.0") },
	"database-login":      func(s *site) { s.set("database.postgres.database", "nowhere") },
	"database-unreachable": func(s *site) {
		s.set("database.postgres.port", "1")
		s.set("database.postgres.sslmode", "require")
	},
	"pooler": func(s *site) {
		host, port, err := net.SplitHostPort(testservers.PgBouncer(s.t, s.database, "transaction").Address)
		if err != nil {
			s.t.Fatal(err)
		}
		s.set("database.postgres.host", host)
		s.set("database.postgres.port", port)
	},
	"database-read-only": func(s *site) { s.alter("SET default_transaction_read_only = on") },
	"schema":             func(s *site) { s.exec("DROP TABLE ident_migrations") },
	"parameters": func(s *site) {
		s.exec("INSERT INTO ident_cluster (partitions, queue_type, table_version) VALUES (8, 'quorum', 1)")
	},
	"database-permission":  func(s *site) { s.role(); s.exec("REVOKE CREATE ON SCHEMA public FROM PUBLIC") },
	"database-owner":       func(s *site) { s.role() },
	"database-history":     func(s *site) { s.role(); s.exec("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC") },
	"database-connections": func(s *site) { s.options.instances = 1000 },
	"fsync":                func(*site) {},
	"full-page-writes":     func(*site) {},
	"synchronous-commit":   func(s *site) { s.alter("SET synchronous_commit = off") },
	"collation-version": func(s *site) {
		s.exec("UPDATE pg_database SET datcollversion = '0' WHERE datname = current_database()")
	},
	"foreign-triggers": func(s *site) { s.exec("ALTER TABLE users DISABLE TRIGGER ident_foreign") },
	"keys":             func(s *site) { s.addUser(secondKey) },
	"keys-stale":       func(s *site) { s.addUser(secondKey); s.set("database.encryption_key", firstKey+","+secondKey) },
}

func limit(value int) any { return map[string]int{"value": value} }

// alter changes the settings of the database for later sessions.
func (s *site) alter(change string) {
	s.t.Helper()
	s.exec(`ALTER DATABASE "` + s.database.Name + `" ` + change)
}

// serveTLS has the settings lead to a server with a certificate that is valid for a day.
func (s *site) serveTLS() {
	s.t.Helper()
	authority := testservers.NewAuthority(s.t)
	pair, err := tls.LoadX509KeyPair(authority.Issue(s.t, "server"))
	if err != nil {
		s.t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.(*tls.Conn).Handshake()
			conn.Close()
		}
	}()
	s.set("amqp.ssl", "true")
	s.set("amqp.ssl_ca", authority.CAFile)
	s.set("amqp.port", strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
}

// addUser stores a user whose access token is encrypted with a key.
func (s *site) addUser(key string) {
	s.t.Helper()
	sealed, err := store.NewKeyring(settings(s.t, key).Database.EncryptionKeys[0].Reveal()).Seal([]byte("token"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.exec(`INSERT INTO users (id, name, email_address) VALUES (1, 'Ada', 'ada@example.org');
		INSERT INTO services (user_id, sv_id, sv_name, access_token) VALUES (1, 1, 'gh', '` + string(sealed) + `')`)
}

// TestWrongSettings, TestBrokerDamages and TestDatabaseDamages damage an installation in each of
// the ways.
func TestWrongSettings(t *testing.T) {
	for id, damage := range wrongSettings {
		t.Run(id, func(t *testing.T) {
			s := newSite(t)
			s.set("amqp.port", "1")
			s.set("database.postgres.port", "1")
			damage(s)
			wantFinding(t, examine(t.Context(), s.environ(), s.options), id)
		})
	}
}

func TestBrokerDamages(t *testing.T) {
	t.Parallel()
	for id, damage := range brokerDamages {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			s, r := newSite(t), newReport()
			s.addBroker()
			damage(s)
			examineBroker(t.Context(), s.load(), s.options, r)
			wantFinding(t, r, id)
		})
	}
}

func TestDatabaseDamages(t *testing.T) {
	t.Parallel()
	for id, damage := range databaseDamages {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			s, r := newSite(t), newReport()
			s.addDatabase()
			damage(s)
			examineDatabase(t.Context(), s.load(), s.options, r)
			wantFinding(t, r, id)
		})
	}
}
