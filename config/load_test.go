package config_test

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/glotpod/ident/config"
)

// defaults are the settings if only a key is set.
func defaults(t *testing.T) *config.Config {
	t.Helper()
	key, err := config.ParseKey(keyText)
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	return &config.Config{
		Database: config.Database{
			EncryptionKeys: []config.Key{key},
			Postgres: config.Postgres{
				Hosts:          []config.Address{{Host: "localhost", Port: 5432}},
				Port:           5432,
				Database:       "glotpod.ident",
				User:           "glotpod.ident",
				SSLMode:        "prefer",
				MaxConnections: 10,
			},
		},
		AMQP: config.AMQP{
			Hosts:       []config.Address{{Host: "localhost", Port: 5672}},
			Port:        5672,
			Login:       "guest",
			Password:    config.Hide("guest"),
			LoginMethod: "AMQPLAIN",
			VHost:       "/",
			Heartbeat:   3 * time.Second,
			Prefetch:    256,
		},
		Cluster:  config.Cluster{Instance: host, Partitions: 64, Weight: 10, QueueType: "auto"},
		Actor:    config.Actor{Mailbox: 256, ReadCache: true, WarmUsers: 100_000, WarmBytes: 64 << 20, Idle: 5 * time.Minute},
		Limits:   config.Limits{BodyBytes: 1048576, Depth: 32, Values: 100000, InFlightBytes: 32 << 20},
		Audit:    config.Audit{Keep: 30 * 24 * time.Hour},
		HTTP:     config.HTTP{Listen: "127.0.0.1:8470"},
		Tracing:  config.Tracing{Sample: 0.1},
		Log:      config.Log{Level: "info", Format: "json"},
		Shutdown: config.Shutdown{Grace: 25 * time.Second},
	}
}

func TestDefaults(t *testing.T) {
	want := defaults(t)
	t.Run("no file", func(t *testing.T) {
		got, err := config.Load([]string{keyVariable, "PATH=/bin", "GLOTPOD_IDENT_SERVICE_HOST=10.0.0.1", config.SettingsVariable + "="})
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v\nwant %+v", got, err, want)
		}
	})
	for name, content := range map[string]string{
		"empty file":      "",
		"comment":         "# nothing here",
		"byte order mark": "\xef\xbb\xbf[amqp]\r\nssl = false\r\n",
		"empty sections":  "[amqp]\n[database.postgres]\n[http]\n",
	} {
		t.Run(name, func(t *testing.T) {
			if got := mustLoad(t, content, keyVariable); !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
		})
	}
}

// everything sets all settings that can be used together to values that are not the
// defaults.
const everything = `
[database]
encryption_key = "` + keyText + `"

[database.postgres]
host = "pg.example"
port = 6432
database = "ident"
user = "ident"
password = "pg password"
sslmode = "verify-full"
sslrootcert = "system"
max_connections = 20

[amqp]
ssl = true
host = "mq.example, [::1]:5673"
login = "ident"
password = "mq password"
login_method = "PLAIN"
insist = true
vhost = "glotpod"
heartbeat = "1m30s"
ssl_server_name = "broker.example"
prefetch = 0x40

[cluster]
instance = "ident-0"
partitions = 1_024
weight = 0.3
queue_type = "classic"

[actor]
mailbox = 1
read_cache = false
warm_users = 2
warm_bytes = 1048576
idle = "1s"

[limits]
body_bytes = 134217728
depth = 1000
values = 2000
in_flight_bytes = 1048576

[notifications]
include_access_tokens = true

[access]
tokens = ["glotpod-auth", "b c"]

[audit]
keep = "0s"

[http]
listen = ""

[tracing]
endpoint = "https://otel.example:4318"
sample = 1

[log]
level = "debug"
format = "console"

[shutdown]
grace = "10m"
`

func wantEverything(t *testing.T) *config.Config {
	c := defaults(t)
	c.Database.Postgres = config.Postgres{
		Hosts:          []config.Address{{Host: "pg.example", Port: 6432}},
		Port:           6432,
		Database:       "ident",
		User:           "ident",
		Password:       config.Hide("pg password"),
		SSLMode:        "verify-full",
		SSLRootCert:    "system",
		MaxConnections: 20,
	}
	c.AMQP = config.AMQP{
		SSL:           true,
		Hosts:         []config.Address{{Host: "mq.example", Port: 5671}, {Host: "::1", Port: 5673}},
		Port:          5671,
		Login:         "ident",
		Password:      config.Hide("mq password"),
		LoginMethod:   "PLAIN",
		Insist:        true,
		VHost:         "glotpod",
		Heartbeat:     90 * time.Second,
		SSLServerName: "broker.example",
		Prefetch:      64,
	}
	c.Cluster = config.Cluster{Instance: "ident-0", Partitions: 1024, Weight: 3, QueueType: "classic"}
	c.Actor = config.Actor{Mailbox: 1, WarmUsers: 2, WarmBytes: 1 << 20, Idle: time.Second}
	c.Limits = config.Limits{BodyBytes: 128 << 20, Depth: 1000, Values: 2000, InFlightBytes: 1 << 20}
	c.Notifications.IncludeAccessTokens = true
	c.Access.Tokens = []string{"glotpod-auth", "b c"}
	c.Audit.Keep = 0
	c.HTTP.Listen = ""
	c.Tracing = config.Tracing{Endpoint: "https://otel.example:4318", Sample: 1, SampleGiven: true}
	c.Log = config.Log{Level: "debug", Format: "console"}
	c.Shutdown.Grace = 10 * time.Minute
	return c
}

func TestFileGivesEverything(t *testing.T) {
	if got, want := mustLoad(t, everything), wantEverything(t); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestEnvironmentGivesEverything(t *testing.T) {
	got, err := config.Load([]string{
		keyVariable,
		"GLOTPOD_IDENT__DATABASE__POSTGRES__HOST=pg.example",
		"GLOTPOD_IDENT__DATABASE__POSTGRES__PORT=6432",
		"GLOTPOD_IDENT__DATABASE__POSTGRES__DATABASE=ident",
		"GLOTPOD_IDENT__DATABASE__POSTGRES__USER=ident",
		"GLOTPOD_IDENT__DATABASE__POSTGRES__PASSWORD=pg password",
		"GLOTPOD_IDENT__DATABASE__POSTGRES__SSLMODE=verify-full",
		"GLOTPOD_IDENT__DATABASE__POSTGRES__SSLROOTCERT=system",
		"GLOTPOD_IDENT__DATABASE__POSTGRES__MAX_CONNECTIONS=20",
		"GLOTPOD_IDENT__AMQP__SSL=true",
		"GLOTPOD_IDENT__AMQP__HOST=mq.example, [::1]:5673",
		"GLOTPOD_IDENT__AMQP__LOGIN=ident",
		"GLOTPOD_IDENT__AMQP__PASSWORD=mq password",
		"GLOTPOD_IDENT__AMQP__LOGIN_METHOD=PLAIN",
		"GLOTPOD_IDENT__AMQP__INSIST=true",
		"GLOTPOD_IDENT__AMQP__VHOST=glotpod",
		"GLOTPOD_IDENT__AMQP__HEARTBEAT=1m30s",
		"GLOTPOD_IDENT__AMQP__SSL_SERVER_NAME=broker.example",
		"GLOTPOD_IDENT__AMQP__PREFETCH=64",
		"GLOTPOD_IDENT__CLUSTER__INSTANCE=ident-0",
		"GLOTPOD_IDENT__CLUSTER__PARTITIONS=1024",
		"GLOTPOD_IDENT__CLUSTER__WEIGHT=0.3",
		"GLOTPOD_IDENT__CLUSTER__QUEUE_TYPE=classic",
		"GLOTPOD_IDENT__ACTOR__MAILBOX=1",
		"GLOTPOD_IDENT__ACTOR__READ_CACHE=false",
		"GLOTPOD_IDENT__ACTOR__WARM_USERS=2",
		"GLOTPOD_IDENT__ACTOR__WARM_BYTES=1048576",
		"GLOTPOD_IDENT__ACTOR__IDLE=1s",
		"GLOTPOD_IDENT__LIMITS__BODY_BYTES=134217728",
		"GLOTPOD_IDENT__LIMITS__DEPTH=1000",
		"GLOTPOD_IDENT__LIMITS__VALUES=2000",
		"GLOTPOD_IDENT__LIMITS__IN_FLIGHT_BYTES=1048576",
		"GLOTPOD_IDENT__NOTIFICATIONS__INCLUDE_ACCESS_TOKENS=true",
		"GLOTPOD_IDENT__AUDIT__KEEP=0s",
		"GLOTPOD_IDENT__ACCESS__TOKENS= glotpod-auth, b c",
		"GLOTPOD_IDENT__HTTP__LISTEN=",
		"GLOTPOD_IDENT__TRACING__ENDPOINT=https://otel.example:4318",
		"GLOTPOD_IDENT__TRACING__SAMPLE=1",
		"GLOTPOD_IDENT__LOG__LEVEL=debug",
		"GLOTPOD_IDENT__LOG__FORMAT=console",
		"GLOTPOD_IDENT__SHUTDOWN__GRACE=10m",
	})
	if want := wantEverything(t); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
}

func TestEnvironmentOverridesFile(t *testing.T) {
	c := mustLoad(t, everything,
		"GLOTPOD_IDENT__AMQP__SSL=true", // the last of two holds
		"GLOTPOD_IDENT__AMQP__SSL=false",
		"GLOTPOD_IDENT__AMQP__SSL_SERVER_NAME=",
		"GLOTPOD_IDENT__AMQP__PASSWORD=",
		"GLOTPOD_IDENT__AMQP__LOGIN=a=b",
		"GLOTPOD_IDENT__DATABASE__POSTGRES__PORT=1")
	want := wantEverything(t)
	want.AMQP.SSL, want.AMQP.Port, want.AMQP.SSLServerName = false, 5672, ""
	want.AMQP.Password, want.AMQP.Login = config.Secret{}, "a=b"
	want.AMQP.Hosts[0].Port = 5672
	want.Database.Postgres.Port, want.Database.Postgres.Hosts[0].Port = 1, 1
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v\nwant %+v", c, want)
	}
}

// A wrong value in the file is no error if the environment overrides it.
func TestEnvironmentReplacesWrongValue(t *testing.T) {
	c := mustLoad(t, keyLine+`amqp.port = "abc"`, "GLOTPOD_IDENT__AMQP__PORT=5000")
	if c.AMQP.Port != 5000 {
		t.Errorf("port %d, want 5000", c.AMQP.Port)
	}
}

func TestAddresses(t *testing.T) {
	for text, want := range map[string][]config.Address{
		"a":                                {{Host: "a", Port: 7}},
		" a ,b:1,\tc.example:65535":        {{Host: "a", Port: 7}, {Host: "b", Port: 1}, {Host: "c.example", Port: 65535}},
		"10.0.0.1,10.0.0.2:5":              {{Host: "10.0.0.1", Port: 7}, {Host: "10.0.0.2", Port: 5}},
		"::1,[::1],[fe80::1%eth0]:2":       {{Host: "::1", Port: 7}, {Host: "::1", Port: 7}, {Host: "fe80::1%eth0", Port: 2}},
		"a_b-c.svc.cluster.local.:5673":    {{Host: "a_b-c.svc.cluster.local.", Port: 5673}},
		"/run/postgresql, /tmp/with space": {{Host: "/run/postgresql", Port: 7}, {Host: "/tmp/with space", Port: 7}},
	} {
		t.Run(text, func(t *testing.T) {
			c := mustLoad(t, keyLine+"database.postgres.port = 7", "GLOTPOD_IDENT__DATABASE__POSTGRES__HOST="+text)
			if got := c.Database.Postgres.Hosts; !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
	for _, text := range []string{"", ",", "a,", "a,,b", "a:", "a:0", "a:65536", "a:b", "a b", ":5672", "[a]:1", "[::1", "[::1]:", "::1]", "a/b",
		"amqp://a", "amqp://a:5672", "u@a", "[]", "[]:1", "a:1:2"} {
		for _, name := range []string{"amqp.host", "database.postgres.host"} {
			t.Run(name+" "+text, func(t *testing.T) {
				_, err := loadFile(t, keyLine+name+" = '"+text+"'")
				if err == nil || !strings.Contains(err.Error(), name+": must be one or several of host, host:port") {
					t.Errorf("got %v", err)
				}
			})
		}
	}
	t.Run("no socket for amqp", func(t *testing.T) {
		if _, err := loadFile(t, keyLine+"amqp.host = '/run/rabbitmq'"); err == nil {
			t.Error("taken")
		}
	})
}

func TestTokenReaders(t *testing.T) {
	for text, want := range map[string][]string{
		"":                        nil,
		"access.tokens = []":      {},
		`access.tokens = ""`:      {},
		`access.tokens = "a"`:     {"a"},
		`access.tokens = " a,b "`: {"a", "b"},
		`access.tokens = ["a,b"]`: {"a,b"},
	} {
		if got := mustLoad(t, keyLine+text).Access.Tokens; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %#v, want %#v", text, got, want)
		}
	}
	if got := mustLoad(t, keyLine+`access.tokens = ["a"]`, "GLOTPOD_IDENT__ACCESS__TOKENS=").Access.Tokens; got == nil || len(got) != 0 {
		t.Errorf("an empty variable gives %#v", got)
	}
	for _, text := range []string{`[1]`, `true`, `["a", ""]`, `"a,,b"`, `["\u0000"]`, `["` + strings.Repeat("x", 256) + `"]`} {
		_, err := loadFile(t, keyLine+"access.tokens = "+text)
		if all := faults(t, err); len(all) != 1 || all[0].Key != "access.tokens" {
			t.Errorf("%.40s: %v", text, err)
		}
	}
}

func TestTOMLForms(t *testing.T) {
	for name, content := range map[string]string{
		"table":         "[amqp]\nport = 5000\n[database]\nencryption_key = '" + keyText + "'",
		"dotted":        keyLine + "amqp.port = 5000",
		"quoted parts":  keyLine + `"amqp".'port' = 5000`,
		"inline table":  keyLine + "amqp = {port = 5000}",
		"array":         "amqp.port = 5000\n[database]\nencryption_key = [\n\"" + keyText + "\"\n]",
		"block of text": "amqp.port = 5000\n[database]\nencryption_key = \"\"\"\n  " + keyText + "\n\"\"\"",
	} {
		t.Run(name, func(t *testing.T) {
			c := mustLoad(t, content)
			if c.AMQP.Port != 5000 || len(c.Database.EncryptionKeys) != 1 {
				t.Errorf("got %+v", c)
			}
		})
	}
}

func TestLoadCommand(t *testing.T) {
	c, err := config.LoadCommand([]string{keyVariable, "GLOTPOD_IDENT__HTTP__ADMIN_TOKEN_FILE=/nowhere", "GLOTPOD_IDENT__HTTP__SSL_CERT=/nowhere"})
	if err != nil || len(c.Database.EncryptionKeys) != 1 || c.HTTP != (config.HTTP{}) {
		t.Errorf("got %+v, %v", c, err)
	}
	if _, err := config.LoadCommand(nil); err == nil {
		t.Error("no key is needed")
	}
}

func TestLoadClient(t *testing.T) {
	path := write(t, "[database]\nencryption_key_file = '/nowhere'\npostgres.port = 'abc'\n[http]\nadmin_token_file = '/nowhere'\nssl_cert = '/nowhere'\n[amqp]\nport = 5000")
	c, err := config.LoadClient([]string{config.SettingsVariable + "=" + path, "GLOTPOD_IDENT__DATABASE__POSTGRES__SSLMODE=abc"})
	if err != nil {
		t.Fatal(err)
	}
	if c.AMQP.Port != 5000 || !reflect.DeepEqual(c.Database, config.Database{}) || c.HTTP != (config.HTTP{}) {
		t.Errorf("got %+v", c)
	}
	if _, err := config.LoadClient([]string{"GLOTPOD_IDENT__DATABASE__ENCRYPTION_KEYS=x"}); err == nil {
		t.Error("an unknown variable is taken")
	}
}
