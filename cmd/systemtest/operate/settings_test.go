package operate

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// writeSettings writes a settings file and returns the environment that names
// it.
func writeSettings(t *testing.T, toml string) (file string, env []string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "ident.toml")
	if err := os.WriteFile(file, []byte(toml), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, append(harness.Settings{}.Environ(), "GLOTPOD_IDENT_SETTINGS="+file)
}

func TestSettings(t *testing.T) {
	t.Parallel()
	t.Run("wrong", testSettingsWrong)
	t.Run("file_alone", testSettingsFileAlone)
	t.Run("taken_port", testSettingsTakenPort)
	t.Run("no_HTTP", testSettingsNoHTTP)
	t.Run("log_format", testSettingsLogFormat)
}

func testSettingsWrong(t *testing.T) {
	t.Parallel()
	const key = "database.encryption_key = '" + harness.PythonKey + "'\n"
	for name, c := range map[string]struct{ toml, names string }{
		"an unknown key":       {key + "amqp.prot = 1", "amqp.prot"},
		"an unknown section":   {key + "[rabbit]\nhost = 'x'", "rabbit"},
		"a text for a number":  {key + "amqp.port = '5672'", "amqp.port"},
		"a number for a text":  {key + "amqp.host = 1", "amqp.host"},
		"a text for a switch":  {key + "amqp.insist = 'yes'", "amqp.insist"},
		"a port out of range":  {key + "database.postgres.port = 70000", "database.postgres.port"},
		"a login method":       {key + "amqp.login_method = 'CRAM'", "amqp.login_method"},
		"a password as number": {key + "amqp.password = 12", "amqp.password"},
		"no encryption key":    {"", "database.encryption_key"},
		"an empty key":         {"database.encryption_key = ''", "database.encryption_key"},
		"a key that is short":  {"database.encryption_key = 's3cretAAAA='", "database.encryption_key"},
		"a key of 33 bytes":    {"database.encryption_key = 's3cret" + strings.Repeat("A", 38) + "'", "database.encryption_key"},
		"a list with a bad key": {"database.encryption_key = ['" + harness.PythonKey + "', 's3cret']",
			"database.encryption_key"},
		"no admin token": {key + "http.admin_token_file = '/dev/null'", "http.admin_token_file"},
		"not TOML":       {key + "amqp.host = s3cret s3cret", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file, env := writeSettings(t, c.toml)
			commands := []string{"serve", "migrate", "rekey"}
			if strings.HasPrefix(c.names, "http.") {
				commands = commands[:1] // the others serve nothing over HTTP
			}
			for _, command := range commands {
				p := harness.Launch(t, env, command)
				if status := p.AwaitExit(t, harness.GiveUpTimeout); status != 78 {
					t.Errorf("%s ended with %d", command, status)
				}
				said := p.Stderr.String()
				// A key that is not there stands in no file.
				if name != "no encryption key" && !strings.Contains(said, file) || !strings.Contains(said, c.names) {
					t.Errorf("%s does not name the file or %q: %s", command, c.names, said)
				}
			}
		})
	}
	t.Run("a variable", func(t *testing.T) {
		t.Parallel()
		p := harness.Launch(t, harness.Settings{"database.encryption_key": harness.PythonKey, "amqp.port": "many"}.Environ(), "serve")
		if status := p.AwaitExit(t, harness.GiveUpTimeout); status != 78 || !strings.Contains(p.Stderr.String(), "GLOTPOD_IDENT__AMQP__PORT") {
			t.Errorf("ended with %d: %s", status, p.Stderr.String())
		}
	})
	t.Run("a file that is not there", func(t *testing.T) {
		t.Parallel()
		p := harness.Launch(t, append(harness.Settings{}.Environ(), "GLOTPOD_IDENT_SETTINGS=/nowhere/ident.toml"))
		if status := p.AwaitExit(t, harness.GiveUpTimeout); status != 78 || !strings.Contains(p.Stderr.String(), "/nowhere/ident.toml") {
			t.Errorf("ended with %d: %s", status, p.Stderr.String())
		}
	})
}

// The seed's file, its keys and its defaults, and no command at all.
func testSettingsFileAlone(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	_, env := writeSettings(t, `
		[database]
		encryption_key = ["`+harness.PythonKeyBase32+`"]
		[database.postgres]
		host = "`+s.Settings["database.postgres.host"]+`"
		port = `+s.Settings["database.postgres.port"]+`
		database = "`+s.Settings["database.postgres.database"]+`"
		user = "`+s.Settings["database.postgres.user"]+`"
		password = "`+s.Settings["database.postgres.password"]+`"
		[amqp]
		ssl = false
		host = "wrong.invalid"
		port = `+s.Settings["amqp.port"]+`
		login = "guest"
		password = "guest"
		login_method = "AMQPLAIN"
		insist = false
		vhost = "`+s.Settings["amqp.vhost"]+`"
		[http]
		listen = "127.0.0.1:0"`)
	// A variable counts for more than the file.
	v := &harness.Instance{Process: harness.Launch(t, append(env, "GLOTPOD_IDENT__AMQP__HOST=127.0.0.1"))}
	v.AwaitReady(t)
	c := s.NewCaller(t)
	u := c.Create(t, harness.NewUser())
	c.Call(t, "get", dict{"user_id": u["id"]}).IsResult(t, u)
	if status := v.Probe("/livez"); status != http.StatusOK {
		t.Errorf("/livez: %d", status)
	}
	v.Stop(t)
}

func testSettingsTakenPort(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	address := listener.Addr().String()
	p := harness.Launch(t, s.Settings.With(harness.Settings{"http.listen": address}).Environ(), "serve")
	if status := p.AwaitExit(t, harness.GiveUpTimeout); status == 0 {
		t.Error("the instance ended with 0")
	}
	for _, word := range []string{"http.listen", address, "in use"} {
		if !strings.Contains(p.Stderr.String(), word) {
			t.Errorf("%q is not in what it says: %s", word, p.Stderr.String())
		}
	}
}

func testSettingsNoHTTP(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	p := harness.Launch(t, s.Settings.With(harness.Settings{"http.listen": ""}).Environ(), "serve")
	c := s.NewCaller(t)
	harness.Eventually(t, "the instance serves", func() bool { return p.Stderr.Count("serving") == 1 })
	c.Create(t, harness.NewUser())
	(&harness.Instance{Process: p}).Stop(t)
	if strings.Contains(p.Stderr.String(), `"listen"`) {
		t.Error("the instance listens")
	}
}

// In production a log is JSON, a line an entry.
func testSettingsLogFormat(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	v := s.Serve(t)
	c := s.NewCaller(t)
	c.Create(t, harness.NewUser())
	v.Stop(t)
	for line := range strings.Lines(v.Stderr.String()) {
		entry, ok := harness.FromJSON(t, []byte(line)).(dict)
		if !ok || entry["level"] == nil || entry["msg"] == nil || entry["ts"] == nil {
			t.Errorf("not an entry: %s", line)
		}
	}
	p := harness.Launch(t, s.Settings.With(harness.Settings{"log.format": "console", "log.level": "debug"}).Environ(), "serve")
	harness.Eventually(t, "the instance serves", func() bool { return strings.Contains(p.Stderr.String(), "serving") })
	(&harness.Instance{Process: p}).Stop(t)
	if slices.ContainsFunc(strings.Split(p.Stderr.String(), "\n"), func(line string) bool { return strings.HasPrefix(line, "{") }) {
		t.Errorf("this is not for people: %s", p.Stderr.String())
	}
}
