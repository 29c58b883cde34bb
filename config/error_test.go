package config_test

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/glotpod/ident/config"
)

// Each of these files has exactly one error. The content starts at line 2, because the key
// is in line 1.
func TestWrongFile(t *testing.T) {
	tests := []struct {
		content string
		line    int
		key     string
		problem string // all of it
	}{
		// types
		{`amqp.port = "abc"`, 2, "amqp.port", `must be a whole number from 1 to 65535, not the text "abc"`},
		{`amqp.port = "5672"`, 2, "amqp.port", `must be a whole number from 1 to 65535, not the text "5672"`},
		{`amqp.port = 5672.5`, 2, "amqp.port", "must be a whole number from 1 to 65535, not a number with a fraction"},
		{`amqp.port = 5672.0`, 2, "amqp.port", "must be a whole number from 1 to 65535, not a number with a fraction"},
		{`amqp.port = nan`, 2, "amqp.port", "must be a whole number from 1 to 65535, not a number with a fraction"},
		{`amqp.port = [5672]`, 2, "amqp.port", "must be a whole number from 1 to 65535, not a list"},
		{`amqp.insist = "yes"`, 2, "amqp.insist", `must be true or false, not the text "yes"`},
		{`amqp.insist = 1`, 2, "amqp.insist", "must be true or false, not 1"},
		{`amqp.host = true`, 2, "amqp.host", "must be text, not true or false"},
		{`amqp.host = 1979-05-27`, 2, "amqp.host", "must be text, not a date or time"},
		{"\n[amqp.host]", 3, "amqp.host", "must be text, not a table"},
		{"\n[[amqp.host]]", 3, "amqp.host", "must be text, not a list of tables"},
		{`amqp.password = 12345678`, 2, "amqp.password", "must be text, not a whole number"},
		{`amqp.password_file = 12345678`, 2, "amqp.password_file", "must be text, not a whole number"},
		{`amqp.heartbeat = 5`, 2, "amqp.heartbeat", `must be a duration from 1s to 5m, not 5; it is text with a unit, as in "90s"`},
		{`amqp.heartbeat = "5"`, 2, "amqp.heartbeat", `must be a duration from 1s to 5m, not the text "5"; it is text with a unit, as in "90s"`},
		{`amqp = 3`, 2, "amqp", "is a section, so it must be a table, not a whole number"},
		{"\n[[amqp]]\nport = 1", 3, "amqp", "is a section, so it must be a table, not a list of tables"},
		// ranges
		{`amqp.port = 0`, 2, "amqp.port", "must be a whole number from 1 to 65535, not 0"},
		{`amqp.port = 65536`, 2, "amqp.port", "must be a whole number from 1 to 65535, not 65536"},
		{`amqp.port = -9223372036854775808`, 2, "amqp.port", "must be a whole number from 1 to 65535, not -9223372036854775808"},
		{`amqp.prefetch = 0`, 2, "amqp.prefetch", "must be a whole number from 1 to 65535, not 0"},
		{`database.postgres.port = 70000`, 2, "database.postgres.port", "must be a whole number from 1 to 65535, not 70000"},
		{`database.postgres.max_connections = 1`, 2, "database.postgres.max_connections", "must be a whole number from 2 to 1000, not 1"},
		{`cluster.partitions = 1025`, 2, "cluster.partitions", "must be a whole number from 1 to 1024, not 1025"},
		{`actor.mailbox = 0`, 2, "actor.mailbox", "must be a whole number from 1 to 65536, not 0"},
		{`limits.body_bytes = 1023`, 2, "limits.body_bytes", "must be a whole number from 1024 to 134217728, not 1023"},
		{`limits.depth = 3`, 2, "limits.depth", "must be a whole number from 4 to 1000, not 3"},
		{`limits.values = 99`, 2, "limits.values", "must be a whole number from 100 to 10000000, not 99"},
		{`cluster.weight = 0`, 2, "cluster.weight", "must be a number from 0.1 to 10 in steps of 0.1, not 0"},
		{`cluster.weight = 10.1`, 2, "cluster.weight", "must be a number from 0.1 to 10 in steps of 0.1, not 10.1"},
		{`cluster.weight = 0.25`, 2, "cluster.weight", "must be a number from 0.1 to 10 in steps of 0.1, not 0.25"},
		{`cluster.weight = nan`, 2, "cluster.weight", "must be a number from 0.1 to 10 in steps of 0.1, not NaN"},
		{`cluster.weight = "half"`, 2, "cluster.weight", `must be a number from 0.1 to 10 in steps of 0.1, not the text "half"`},
		{`tracing.sample = 1.1`, 2, "tracing.sample", "must be a number from 0 to 1, not 1.1"},
		{`tracing.sample = -0.1`, 2, "tracing.sample", "must be a number from 0 to 1, not -0.1"},
		{`tracing.sample = 2`, 2, "tracing.sample", "must be a number from 0 to 1, not 2"},
		{`tracing.sample = nan`, 2, "tracing.sample", "must be a number from 0 to 1, not NaN"},
		{`tracing.sample = inf`, 2, "tracing.sample", "must be a number from 0 to 1, not +Inf"},
		{`tracing.sample = "1.1"`, 2, "tracing.sample", `must be a number from 0 to 1, not the text "1.1"`},
		{`amqp.heartbeat = "999ms"`, 2, "amqp.heartbeat", `must be a duration from 1s to 5m, not the text "999ms"`},
		{`shutdown.grace = "9999999h"`, 2, "shutdown.grace", `must be a duration from 1s to 10m, not the text "9999999h"`},
		{`shutdown.grace = "-1h99999999999999999999.5µs"`, 2, "shutdown.grace", `must be a duration from 1s to 10m, not the text "-1h99999999999999999999.5µs"`},
		{`shutdown.grace = "1h30"`, 2, "shutdown.grace", `must be a duration from 1s to 10m, not the text "1h30"; it is text with a unit, as in "90s"`},
		{`shutdown.grace = "-1s"`, 2, "shutdown.grace", `must be a duration from 1s to 10m, not the text "-1s"`},
		{`amqp.login_method = "plain"`, 2, "amqp.login_method", `must be one of AMQPLAIN, PLAIN, EXTERNAL, not the text "plain"`},
		{`cluster.queue_type = "stream"`, 2, "cluster.queue_type", `must be one of auto, quorum, classic, not the text "stream"`},
		{`log.level = ""`, 2, "log.level", `must be one of debug, info, warn, error, not the text ""`},
		{`log.format = "xml"`, 2, "log.format", `must be one of json, console, not the text "xml"`},
		{`database.postgres.sslmode = "on"`, 2, "database.postgres.sslmode", `must be one of disable, allow, prefer, require, verify-ca, verify-full, not the text "on"`},
		{`cluster.instance = "a b"`, 2, "cluster.instance", `must be 1 to 63 of the characters A–Z a–z 0–9 . _ -, not the text "a b"`},
		{`cluster.instance = ""`, 2, "cluster.instance", `must be 1 to 63 of the characters A–Z a–z 0–9 . _ -, not the text ""`},
		{`cluster.instance = "` + strings.Repeat("x", 65) + `"`, 2, "cluster.instance", `must be 1 to 63 of the characters A–Z a–z 0–9 . _ -, not a text of 65 bytes`},
		{`cluster.instance = "a\n"`, 2, "cluster.instance", `must be 1 to 63 of the characters A–Z a–z 0–9 . _ -, not a text of 2 bytes`},
		{`amqp.host = ""`, 2, "amqp.host", `must be one or several of host, host:port or [IPv6]:port, separated by commas, not the text ""`},
		{`amqp.vhost = "a\u0000b"`, 2, "amqp.vhost", "must not contain a NUL"},
		{`amqp.password = "a\u0000b"`, 2, "amqp.password", "must not contain a NUL"},
		{`http.listen = "8470"`, 2, "http.listen", `must be host:port, or empty for none, not the text "8470"`},
		{`http.listen = "localhost:http"`, 2, "http.listen", `must be host:port, or empty for none, not the text "localhost:http"`},
		{`http.listen = ":65536"`, 2, "http.listen", `must be host:port, or empty for none, not the text ":65536"`},
		// names
		{`amqp.hots = "x"`, 2, "amqp.hots", "unknown key; did you mean amqp.host?"},
		{`amqp.Host = "x"`, 2, "amqp.Host", "unknown key; did you mean amqp.host?"},
		{`"amqp.host" = "x"`, 2, `"amqp.host"`, "unknown key; did you mean amqp.host?"},
		{`amqp.host.name = "x"`, 0, "amqp.host", "must be text, not a table"},
		{`"" = 1`, 2, `""`, "unknown key"},
		{`queue_type = "quorum"`, 2, "queue_type", "unknown key; did you mean cluster.queue_type?"},
		{"\n[postgres]\nhost = 'x'\nport = 1", 3, "postgres", "unknown key; did you mean database.postgres?"},
		{"\n[rabbit]", 3, "rabbit", "unknown key"},
		// consistency of settings
		{`amqp.ssl_ca = "x"`, 2, "amqp.ssl_ca", "needs amqp.ssl = true"},
		{`amqp.ssl_server_name = "x"`, 2, "amqp.ssl_server_name", "needs amqp.ssl = true"},
		{"amqp.ssl = true\namqp.ssl_cert = 'x'", 3, "amqp.ssl_cert", "needs amqp.ssl_key"},
		{"amqp.ssl = true\namqp.ssl_key = 'x'", 3, "amqp.ssl_key", "needs amqp.ssl_cert"},
		{`amqp.login_method = "EXTERNAL"`, 2, "amqp.login_method", "EXTERNAL needs amqp.ssl = true and amqp.ssl_cert"},
		{"amqp.ssl = true\namqp.login_method = 'EXTERNAL'", 3, "amqp.login_method", "EXTERNAL needs amqp.ssl = true and amqp.ssl_cert"},
		{"amqp.ssl = true\namqp.ssl_ca = '/nowhere'", 3, "amqp.ssl_ca", "cannot be used: open /nowhere: no such file or directory"},
		{"amqp.ssl = true\namqp.ssl_ca = '/dev/null'", 3, "amqp.ssl_ca", "contains no PEM certificate: /dev/null"},
		{"amqp.ssl = true\namqp.ssl_key = '/nowhere'\namqp.ssl_cert = '/nowhere'", 4, "amqp.ssl_cert", "cannot be used with amqp.ssl_key: open /nowhere: no such file or directory"},
		{`database.postgres.sslrootcert = "/dev/null"`, 2, "database.postgres.sslrootcert", "contains no PEM certificate: /dev/null"},
		// an error is reported once; checks that depend on the setting are skipped
		{"amqp.ssl = 'true'\namqp.ssl_ca = '/nowhere'", 2, "amqp.ssl", `must be true or false, not the text "true"`},
		{"amqp.sssl = true\namqp.ssl_ca = '/nowhere'", 2, "amqp.sssl", "unknown key; did you mean amqp.ssl?"},
		// not TOML
		{"\namqp.host = localhost", 3, "amqp.host", "not valid TOML here: text needs quotation marks, and a key or table may occur only once"},
		{"amqp.port = 1\namqp.port = 2", 3, "amqp.port", "not valid TOML here: text needs quotation marks, and a key or table may occur only once"},
		{"\n[amqp]\n[amqp]", 4, "", "not valid TOML here: text needs quotation marks, and a key or table may occur only once"},
		{"amqp.port = 99999999999999999999", 2, "amqp.port", "not valid TOML here: text needs quotation marks, and a key or table may occur only once"},
		{"amqp.host = \"x\nlog.level = 'info'", 2, "amqp.host", "not valid TOML: strings cannot contain newlines"},
	}
	for _, test := range tests {
		t.Run(test.content, func(t *testing.T) {
			path := write(t, keyLine+test.content)
			_, err := config.Load([]string{config.SettingsVariable + "=" + path})
			all := faults(t, err)
			if len(all) != 1 {
				t.Fatalf("got %v, want one fault", err)
			}
			got := all[0]
			if got.File != path || got.Line != test.line || got.Key != test.key || got.Variable != "" {
				t.Errorf("got %q at line %d of %q, want %q at line %d of %q", got.Key, got.Line, got.File, test.key, test.line, path)
			}
			if got.Err.Error() != test.problem {
				t.Errorf("got  %s\nwant %s", got.Err, test.problem)
			}
		})
	}
}

func TestWrongVariable(t *testing.T) {
	for entry, want := range map[string]string{
		"GLOTPOD_IDENT__AMQP__PORT=abc":                  `GLOTPOD_IDENT__AMQP__PORT: amqp.port: must be a whole number from 1 to 65535, not the text "abc"`,
		"GLOTPOD_IDENT__AMQP__PORT=":                     `GLOTPOD_IDENT__AMQP__PORT: amqp.port: must be a whole number from 1 to 65535, not the text ""`,
		"GLOTPOD_IDENT__AMQP__PORT=99999999999999999999": `GLOTPOD_IDENT__AMQP__PORT: amqp.port: must be a whole number from 1 to 65535, not the text "99999999999999999999"`,
		"GLOTPOD_IDENT__AMQP__INSIST=1":                  `GLOTPOD_IDENT__AMQP__INSIST: amqp.insist: must be true or false, not the text "1"`,
		"GLOTPOD_IDENT__AMQP__HEARTBEAT=5":               `GLOTPOD_IDENT__AMQP__HEARTBEAT: amqp.heartbeat: must be a duration from 1s to 5m, not the text "5"; it is text with a unit, as in "90s"`,
		"GLOTPOD_IDENT__TRACING__SAMPLE=1.1":             `GLOTPOD_IDENT__TRACING__SAMPLE: tracing.sample: must be a number from 0 to 1, not 1.1`,
		"GLOTPOD_IDENT__SHUTDOWN__GRACE=9999999h":        `GLOTPOD_IDENT__SHUTDOWN__GRACE: shutdown.grace: must be a duration from 1s to 10m, not the text "9999999h"`,
		"GLOTPOD_IDENT__AMQP__SSL_CA=x":                  `GLOTPOD_IDENT__AMQP__SSL_CA: amqp.ssl_ca: needs amqp.ssl = true`,
		"GLOTPOD_IDENT__AMQP__HOTS=x":                    `GLOTPOD_IDENT__AMQP__HOTS: amqp.hots: unknown variable; did you mean GLOTPOD_IDENT__AMQP__HOST?`,
		"GLOTPOD_IDENT__AMQP_HOST=x":                     `GLOTPOD_IDENT__AMQP_HOST: amqp_host: unknown variable; did you mean GLOTPOD_IDENT__AMQP__HOST?`,
		"GLOTPOD_IDENT__amqp__host=x":                    `GLOTPOD_IDENT__amqp__host: amqp.host: unknown variable; did you mean GLOTPOD_IDENT__AMQP__HOST?`,
		"GLOTPOD_IDENT__FROBNICATE=x":                    `GLOTPOD_IDENT__FROBNICATE: frobnicate: unknown variable`,
		"GLOTPOD_IDENT__=x":                              `GLOTPOD_IDENT__: unknown variable`,
		"GLOTPOD_IDENT__AMQP__PASSWORD_FILE=/nowhere":    `GLOTPOD_IDENT__AMQP__PASSWORD_FILE: amqp.password_file: cannot read /nowhere: no such file or directory`,
	} {
		t.Run(entry, func(t *testing.T) {
			_, err := config.Load([]string{keyVariable, entry})
			if err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}

func TestAllFaultsTogether(t *testing.T) {
	path := write(t, "[log]\nlevel = 'loud'\nlevle = 'info'\n[amqp]\nport = 0\n[actor]\nmailbox = 'x'\n")
	c, err := config.Load([]string{"GLOTPOD_IDENT__LOG__FORMAT=xml", config.SettingsVariable + "=" + path, "GLOTPOD_IDENT__X=1"})
	want := strings.ReplaceAll(`GLOTPOD_IDENT__LOG__FORMAT: log.format: must be one of json, console, not the text "xml"
GLOTPOD_IDENT__X: x: unknown variable
PATH: database.encryption_key: is required
PATH:2: log.level: must be one of debug, info, warn, error, not the text "loud"
PATH:3: log.levle: unknown key; did you mean log.level?
PATH:5: amqp.port: must be a whole number from 1 to 65535, not 0
PATH:7: actor.mailbox: must be a whole number from 1 to 65536, not the text "x"`, "PATH", path)
	if c != nil || err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestKeyIsRequired(t *testing.T) {
	_, err := config.Load(nil)
	if err == nil || err.Error() != "database.encryption_key: is required" {
		t.Errorf("got %v", err)
	}
}

func TestUnreadableFile(t *testing.T) {
	folder := t.TempDir()
	for path, want := range map[string]string{
		filepath.Join(folder, "none"):            "no such file or directory",
		folder:                                   "is a directory",
		write(t, strings.Repeat("#", 64<<10+1)):  "it is larger than 65536 bytes",
		write(t, "a = '\xff'"):                   "not valid TOML",
		write(t, "\xff\xfea\x00=\x00'\x00a\x00"): "not valid TOML",
	} {
		_, err := config.Load([]string{keyVariable, config.SettingsVariable + "=" + path})
		all := faults(t, err)
		if len(all) != 1 || all[0].File != path || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	_, err := config.Load([]string{config.SettingsVariable + "=" + filepath.Join(folder, "none")})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v is not fs.ErrNotExist", err)
	}
}
