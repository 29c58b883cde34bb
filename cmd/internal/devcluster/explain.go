package devcluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/glotpod/ident/config"
)

// explain prints the addresses of the servers and commands to try.
func (c *Cluster) explain() {
	settings := config.SettingsVariable + "=" + shellWord(c.folder.settings())
	program := shellWord(shortestPath(c.options.Program))
	var instances strings.Builder
	for _, i := range c.instances {
		fmt.Fprintf(&instances, "  %-10s  %s shows the cluster, process %d\n", i.name, i.url(), i.process.child.Pid)
	}
	last := c.instances[len(c.instances)-1]
	c.say(`
GlotPod's identity service is running. Ctrl-C stops it.

  RabbitMQ    %s
              %s is its management page (%s/%s)
  PostgreSQL  %s
  settings    %s
%s
In another terminal, from this folder, try:

  %s %s call list

Show the instances and the owner of each partition:

  %s %s status

Run one more instance, until Ctrl-C:

  %s %s=%s %s=127.0.0.1:0 %s serve

Kill an instance, which is restarted after %v:

  %s
`,
		c.rabbitmq.URL("/"),
		c.rabbitmq.Management.URL, c.rabbitmq.User, c.rabbitmq.Password,
		c.postgres.URL(c.database),
		c.folder.settings(),
		instances.String(),
		settings, program,
		settings, program,
		settings, instanceVariable, instanceName(len(c.instances)), listenVariable, program,
		restartPause,
		last.killCommand())
}

// shortestPath returns the shortest path by which a shell finds a program from the
// current folder.
func shortestPath(program string) string {
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

// shellWord quotes text if a shell would not read it as one word.
func shellWord(text string) string {
	special := func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("/._-", r))
	}
	if strings.IndexFunc(text, special) < 0 {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
