package config

import (
	"cmp"
	"fmt"
	"strings"
)

// Entry describes one setting to its users.
type Entry struct {
	Key      string // its name in TOML, with its sections: "amqp.port"
	Variable string // the environment variable that gives it too
	Default  string // Markdown; "required" and "none" are words, not values
	Value    string // what a value may be: "a whole number from 1 to 65535"
	Help     string // what it is for: sentences of Markdown
}

// Reference describes all settings, section by section.
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

// MarkdownTable returns the reference as a table for README.md.
func MarkdownTable() string {
	var b strings.Builder
	b.WriteString("| Key | Default | Value | Meaning |\n|---|---|---|---|\n")
	for _, e := range Reference() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", e.Key, e.Default, e.Value, e.Help)
	}
	return b.String()
}
