package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/glotpod/ident/config"
)

// explain says where everything is, and what can be done with it.
func (d *dev) explain(http string) {
	d.say(`
GlotPod's identity service is running. Ctrl-C stops it.

  RabbitMQ    %s
              %s shows what is in it (%s/%s)
  PostgreSQL  %s
  health      http://%s/readyz
  settings    %s

In another terminal, from this folder, try:

  %s=%s %s call list
`,
		d.rabbitmq.URL("/"),
		d.rabbitmq.Management.URL, d.rabbitmq.User, d.rabbitmq.Password,
		d.postgres.URL(devDatabase),
		http,
		d.folder.settings(),
		config.SettingsVariable, shellWord(d.folder.settings()), shellWord(thisProgram()))
}

// thisProgram returns the shortest path by which a shell finds this program
// from the current folder.
func thisProgram() string {
	program, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	folder, err := os.Getwd()
	if err != nil {
		return program
	}
	relative, err := filepath.Rel(folder, program)
	if err != nil || len(relative) >= len(program) {
		return program
	}
	if !strings.Contains(relative, "/") {
		return "./" + relative
	}
	return relative
}

// shellWord quotes what a shell would not take as one plain word.
func shellWord(text string) string {
	special := func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("/._-", r))
	}
	if strings.IndexFunc(text, special) < 0 {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
