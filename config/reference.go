package config

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
)

// An Entry is the description of one setting.
type Entry struct {
	Key      string // the name in TOML with its sections: "amqp.port"
	Variable string // the environment variable of the setting
	Default  string // Markdown; "required" and "none" are words, not values
	Value    string // valid values: "a whole number from 1 to 65535"
	Help     string // what the setting is for; sentences in Markdown
}

// Reference returns the descriptions of all settings, section by section.
func Reference() []Entry {
	var entries []Entry
	for _, s := range new(Config).settings() {
		initial := cmp.Or(s.computed, "none")
		switch {
		case s.required:
			initial = "required"
		case s.initial != "":
			initial = "`" + s.initial + "`"
		}
		entries = append(entries, Entry{s.name, s.variable(), initial, s.kind.String(), s.help})
	}
	return entries
}

// MarkdownTable returns the reference as the table in SETTINGS.md.
func MarkdownTable() string {
	var b strings.Builder
	b.WriteString("| Key | Default | Value | Meaning |\n|---|---|---|---|\n")
	for _, e := range Reference() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", e.Key, e.Default, e.Value, e.Help)
	}
	return guide.ReplaceAllString(b.String(), "[$0](../$0)")
}

// guide finds the names of documents in the help of settings.
var guide = regexp.MustCompile(`deploy/guide/[a-z-]+\.md`)
