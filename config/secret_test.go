package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/glotpod/ident/config"
)

const (
	passwordVariable     = "GLOTPOD_IDENT__AMQP__PASSWORD="
	passwordFileVariable = "GLOTPOD_IDENT__AMQP__PASSWORD_FILE="
)

// A byte order mark before a password and one line break after it are not part of it,
// whether it comes from a file or the environment.
func TestTrimmedPasswords(t *testing.T) {
	for content, want := range map[string]string{
		"\ufeffhunter2\r\n":   "hunter2",
		"\ufeff hunter2 ":     " hunter2 ",
		"\ufeff\ufeffhunter2": "\ufeffhunter2",
		"hunter2\ufeff":       "hunter2\ufeff",
		"\nhunter2":           "\nhunter2",
		"\ufeff":              "",
		"hunter2":             "hunter2",
		"hunter2\n":           "hunter2",
		"hunter2\r\n":         "hunter2",
		"hunter2\n\n":         "hunter2\n",
		"hunter2\r":           "hunter2\r",
		" hunter2 ":           " hunter2 ",
		"":                    "",
		"\n":                  "",
	} {
		path := write(t, content)
		fromFile := mustLoad(t, keyLine+"amqp.password_file = '"+path+"'")
		if got := fromFile.AMQP.Password.Reveal(); got != want {
			t.Errorf("settings file: %q in the file: got %q, want %q", content, got, want)
		}
		fromEnviron := mustLoad(t, keyLine, passwordFileVariable+path)
		if got := fromEnviron.AMQP.Password.Reveal(); got != want {
			t.Errorf("environment: %q in the file: got %q, want %q", content, got, want)
		}
		inEnviron := mustLoad(t, keyLine, passwordVariable+content)
		if got := inEnviron.AMQP.Password.Reveal(); got != want {
			t.Errorf("environment: %q: got %q, want %q", content, got, want)
		}
	}
}

// A pipe has the password only once. To open it again would wait for ever.
func TestPasswordFromAPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	go os.WriteFile(path, []byte("once\n"), 0)
	c := mustLoad(t, keyLine, passwordFileVariable+path)
	read := make(chan string, 1)
	go func() {
		password, err := c.AMQP.ReadPassword()
		read <- fmt.Sprint(password, err)
	}()
	select {
	case got := <-read:
		if got != "once<nil>" {
			t.Errorf("got %s", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("a connection waits for its password")
		os.WriteFile(path, nil, 0) // ends the wait
	}
}

// A password from a file is read again for each connection. While the file is being
// replaced, there is none, and the settings are not wrong.
func TestPasswordOfAConnection(t *testing.T) {
	const postgres = "database.postgres.password"
	path := write(t, "first\n")
	c := mustLoad(t, keyLine+postgres+"_file = '"+path+"'\namqp.password_file = '"+path+"'")
	plain := mustLoad(t, keyLine+postgres+" = 'x'")
	for _, x := range []struct{ content, want string }{
		{"first\n", "first"}, {"\ufeffsecond \r\n", "second "}, {"", ""}, {"\n", ""}, {"a\x00b", ""}, {strings.Repeat("x", 1<<17), ""}, {"third", "third"},
	} {
		if err := os.WriteFile(path, []byte(x.content), 0o600); err != nil {
			t.Fatal(err)
		}
		for key, read := range map[string]func() (string, error){postgres: c.Database.Postgres.ReadPassword, "amqp.password": c.AMQP.ReadPassword} {
			got, err := read()
			wrong := &config.Error{}
			if got != x.want || (err == nil) == (x.want == "") || errors.As(err, &wrong) {
				t.Errorf("%.20q: got %q, %v", x.content, got, err)
			}
			if err != nil && (!strings.Contains(err.Error(), key+"_file") || !strings.Contains(err.Error(), path)) {
				t.Errorf("the error does not name the setting and the file: %v", err)
			}
		}
	}
	if got, err := plain.Database.Postgres.ReadPassword(); got != "x" || err != nil {
		t.Errorf("without a file: %q, %v", got, err)
	}
	os.Remove(path)
	if got, err := c.AMQP.ReadPassword(); got != "" || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after its removal: %q, %v", got, err)
	}
	if got := mustLoad(t, keyLine, passwordFileVariable+write(t, "")); got.AMQP.Password.Reveal() != "" {
		t.Error("no password at the start")
	} else if _, err := got.AMQP.ReadPassword(); err != nil {
		t.Errorf("none at the start and none later: %v", err)
	}
}

// Either form of a secret in the environment overrides both forms in the settings file.
func TestSecretPrecedence(t *testing.T) {
	one, two := write(t, "one"), write(t, "two")
	for _, test := range []struct {
		name, content string
		environ       []string
		want          string
	}{
		{"file over text", "amqp.password = 'x'", []string{passwordFileVariable + two}, "two"},
		{"text over file", "amqp.password_file = '" + one + "'", []string{passwordVariable + "y"}, "y"},
		{"empty text over file", "amqp.password_file = '" + one + "'", []string{passwordVariable}, ""},
		{"file over file", "amqp.password_file = '" + one + "'", []string{passwordFileVariable + two}, "two"},
		{"no file over text", "amqp.password = 'x'", []string{passwordFileVariable}, "x"},
		{"no file over file", "amqp.password_file = '" + one + "'", []string{passwordFileVariable}, "guest"},
		{"no file beside text", "amqp.password = 'x'\namqp.password_file = ''", nil, "x"},
		{"over both", "amqp.password = 'x'\namqp.password_file = '" + one + "'", []string{passwordVariable + "y"}, "y"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := mustLoad(t, keyLine+test.content, test.environ...)
			if got := c.AMQP.Password.Reveal(); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestBothFormsOfASecret(t *testing.T) {
	path := write(t, "one")
	for name, load := range map[string]func() (*config.Config, error){
		"settings file": func() (*config.Config, error) {
			return loadFile(t, keyLine+"amqp.password = 'x'\namqp.password_file = '"+path+"'")
		},
		"environment": func() (*config.Config, error) {
			return loadFile(t, keyLine, passwordVariable+"x", passwordFileVariable+path)
		},
		"environment, other order": func() (*config.Config, error) {
			return loadFile(t, keyLine, passwordFileVariable+path, passwordVariable+"x")
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load()
			all := faults(t, err)
			if len(all) != 1 || all[0].Key != "amqp.password_file" || !strings.Contains(err.Error(), "cannot be given together with amqp.password") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAdminToken(t *testing.T) {
	const token = "correct-horse-battery"
	file := write(t, token+"\n")
	c := mustLoad(t, keyLine+"http.admin_token_file = '"+file+"'")
	expect := func(want string, wantErr bool) {
		t.Helper()
		if got, err := c.HTTP.AdminToken(); got != want && err == nil || (err != nil) != wantErr {
			t.Errorf("got %q, %v", got, err)
		}
	}
	expect(token, false)
	if err := os.WriteFile(file, []byte("another-"+token), 0o600); err != nil {
		t.Fatal(err)
	}
	expect("another-"+token, false)
	if err := os.WriteFile(file, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect("", true)
	for _, wrong := range []string{"", "fifteen-letters", "two words of length", token + "\n" + token, "correct-hörse-battery"} {
		_, err := loadFile(t, keyLine+"http.admin_token_file = '"+write(t, wrong)+"'")
		if all := faults(t, err); len(all) != 1 || all[0].Key != "http.admin_token_file" || wrong != "" && strings.Contains(err.Error(), wrong) {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}

func TestKeyLists(t *testing.T) {
	one, two := config.GenerateKey(), config.GenerateKey()
	for name, content := range map[string]string{
		"list": "database.encryption_key = ['" + one + "', ' " + two + " ']",
		"file": "database.encryption_key_file = '" + write(t, one+"\n"+two+"\n") + "'",
		"BOM":  "database.encryption_key_file = '" + write(t, "\ufeff"+one+"\n"+two+"\n") + "'",
		"CRLF": "database.encryption_key_file = '" + write(t, one+"\r\n"+two+"\r\n\r\n") + "'",
	} {
		t.Run(name, func(t *testing.T) { wantKeys(t, mustLoad(t, content), one, two) })
	}
	t.Run("variable", func(t *testing.T) {
		wantKeys(t, mustLoad(t, keyLine, "GLOTPOD_IDENT__DATABASE__ENCRYPTION_KEY="+one+", "+two), one, two)
		wantKeys(t, mustLoad(t, keyLine, "GLOTPOD_IDENT__DATABASE__ENCRYPTION_KEY=\ufeff"+one+", "+two+"\r\n"), one, two)
	})
	t.Run("file variable", func(t *testing.T) {
		wantKeys(t, mustLoad(t, keyLine, "GLOTPOD_IDENT__DATABASE__ENCRYPTION_KEY_FILE="+write(t, one+"\n"+two)), one, two)
	})
}

func wantKeys(t *testing.T, c *config.Config, texts ...string) {
	t.Helper()
	if len(c.Database.EncryptionKeys) != len(texts) {
		t.Fatalf("%d keys, want %d", len(c.Database.EncryptionKeys), len(texts))
	}
	for i, text := range texts {
		key, err := config.ParseKey(text)
		if err != nil {
			t.Fatal(err)
		}
		if c.Database.EncryptionKeys[i].Reveal() != key.Reveal() {
			t.Errorf("key %d is another one", i+1)
		}
	}
}

func TestWrongKeys(t *testing.T) {
	const wrong = "must be exactly 32 bytes in base64, base64url or base32; this text of "
	file := write(t, keyText+"\n\n"+keyText)
	for content, want := range map[string]string{
		`encryption_key = ""`:                                "database.encryption_key: " + wrong + "0 bytes is not",
		`encryption_key = "hunter2"`:                         "database.encryption_key: " + wrong + "7 bytes is not",
		`encryption_key = 12345678`:                          "database.encryption_key: must be text, not a whole number",
		`encryption_key = []`:                                "database.encryption_key: must have at least one key",
		`encryption_key = {a = 1}`:                           "database.encryption_key: must be text, not a table",
		`encryption_key = ["` + keyText + `", 1, "hunter"]`:  "database.encryption_key: key 2 of 3 must be text, not a whole number; key 3 of 3 " + wrong + "6 bytes is not",
		`encryption_key = "` + keyText + `,` + keyText + `"`: "database.encryption_key: " + wrong + "89 bytes is not",
		`encryption_key_file = "` + file + `"`:               file + ": database.encryption_key: key 2 of 3 " + wrong + "0 bytes is not",
		`encryption_key_file = "/nowhere"`:                   "database.encryption_key_file: cannot read /nowhere: no such file or directory",
	} {
		t.Run(content, func(t *testing.T) {
			_, err := loadFile(t, "[database]\n"+content)
			if all := faults(t, err); len(all) != 1 || !strings.HasSuffix(err.Error(), want) {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}
