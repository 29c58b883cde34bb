package config_test

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/glotpod/ident/config"
)

var update = flag.Bool("update", false, "write the table of settings into SETTINGS.md")

const document = "SETTINGS.md"

// SETTINGS.md contains the current table of settings.
func TestSettingsDocument(t *testing.T) {
	const begin, end = "<!-- settings -->\n", "<!-- /settings -->"
	b, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(b), begin)
	table, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no section from %q to %q", document, begin, end)
	}
	if *update {
		if err := os.WriteFile(document, []byte(before+begin+config.MarkdownTable()+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if table != config.MarkdownTable() {
		t.Errorf("%s tells other settings than there are; `go test ./config -run SettingsDocument -update` writes\n%s", document, config.MarkdownTable())
	}
}

func TestReference(t *testing.T) {
	names := make(map[string]bool)
	for _, e := range config.Reference() {
		if names[e.Key] {
			t.Errorf("%s is there twice", e.Key)
		}
		names[e.Key] = true
		if want := "GLOTPOD_IDENT__" + strings.ToUpper(strings.ReplaceAll(e.Key, ".", "__")); e.Variable != want {
			t.Errorf("%s has the variable %s, want %s", e.Key, e.Variable, want)
		}
		if e.Default == "" || e.Value == "" || !strings.HasSuffix(e.Help, ".") {
			t.Errorf("%s lacks documentation: %+v", e.Key, e)
		}
		for _, cell := range []string{e.Default, e.Value, e.Help} {
			if strings.ContainsAny(cell, "|\n") {
				t.Errorf("%s breaks the table: %q", e.Key, cell)
			}
		}
	}
	var secrets []string
	for name := range names {
		if strings.HasSuffix(name, "password") || strings.HasSuffix(name, "encryption_key") {
			secrets = append(secrets, name)
		}
	}
	slices.Sort(secrets)
	if !slices.Equal(secrets, []string{"amqp.password", "database.encryption_key", "database.postgres.password"}) {
		t.Errorf("secrets %v", secrets)
	}
	for _, name := range secrets {
		if !names[name+"_file"] {
			t.Errorf("%s has no form with a file", name)
		}
	}
}

// The keys and defaults of the Python service are unchanged.
func TestReferenceKeepsDocumentedDefaults(t *testing.T) {
	want := map[string]string{
		"database.encryption_key":    "required",
		"database.postgres.host":     "`localhost`",
		"database.postgres.port":     "`5432`",
		"database.postgres.database": "`glotpod.ident`",
		"database.postgres.user":     "`glotpod.ident`",
		"database.postgres.password": "none",
		"amqp.ssl":                   "`false`",
		"amqp.host":                  "`localhost`",
		"amqp.port":                  "5672, or 5671 with `amqp.ssl`",
		"amqp.login":                 "`guest`",
		"amqp.password":              "`guest`",
		"amqp.login_method":          "`AMQPLAIN`",
		"amqp.insist":                "`false`",
	}
	for _, e := range config.Reference() {
		if w, ok := want[e.Key]; ok && e.Default != w {
			t.Errorf("%s: default %s, want %s", e.Key, e.Default, w)
		}
		delete(want, e.Key)
	}
	for key := range want {
		t.Errorf("%s is missing", key)
	}
}
