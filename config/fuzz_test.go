package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/glotpod/ident/config"
)

// Whatever the settings file contains before and after a secret, Load returns, and neither
// its error nor the printed settings contain the secret. The secret is alone on its line,
// with or without quotation marks.
func FuzzLoad(f *testing.F) {
	const secret = "zq4-Hunter2-zq4"
	for _, seed := range []string{
		"", everything, keyLine, "[amqp]\nport = 1\n", "[[amqp]]\n", "amqp.host.name = 1\n", "a.\"b\".'c' = 1979-05-27T07:32:00Z\n",
		"x = [[1, {a = 1}], \"\\u0000\"]\n", "amqp = {host = '''\n", "'''}\n", "x = \"\"\"\\\n", "\"\"\"\n", "[a\n", "]\n", "x =", "x = 0x_1\n", "\xff\xfe", "\x00",
	} {
		f.Add(seed, "", true)
		f.Add("", seed, false)
	}
	folder := f.TempDir()
	f.Fuzz(func(t *testing.T, before, after string, quoted bool) {
		if strings.Contains(before+after, "zq4") {
			t.Skip()
		}
		value := secret
		if quoted {
			value = `"` + secret + `"`
		}
		path := filepath.Join(folder, fmt.Sprint(os.Getpid()))
		content := before + "\n[database.postgres]\npassword = " + value + "\n" + after
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, load := range []func([]string) (*config.Config, error){config.Load, config.LoadCommand, config.LoadClient} {
			c, err := load([]string{config.SettingsVariable + "=" + path})
			if (c == nil) == (err == nil) {
				t.Fatalf("got %v, %v", c, err)
			}
			if shown := fmt.Sprintf("%v %+v %#v %v", c, c, c, err); strings.Contains(shown, "zq4") {
				t.Fatalf("shows the secret: %s", shown)
			}
		}
	})
}

// Load returns for any environment.
func FuzzLoadEnviron(f *testing.F) {
	for _, e := range config.Reference() {
		f.Add(e.Variable[len("GLOTPOD_IDENT__"):], "1")
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		if strings.HasSuffix(name, "_FILE") || strings.Contains(name, "SSL") {
			t.Skip() // would open any file
		}
		c, err := config.Load([]string{keyVariable, "GLOTPOD_IDENT__" + name + "=" + value})
		if (c == nil) == (err == nil) {
			t.Fatalf("got %v, %v", c, err)
		}
	})
}
