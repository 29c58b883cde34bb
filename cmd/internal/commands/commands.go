// Package commands is the command table of the program glotpod-ident.
package commands

import (
	"fmt"
	"io"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/doctor"
	"github.com/glotpod/ident/cmd/internal/operate"
	"github.com/glotpod/ident/cmd/internal/serve"
	"github.com/glotpod/ident/cmd/internal/users"
	"github.com/glotpod/ident/config"
)

// Name is the name of the program.
const Name = "glotpod-ident"

// Program returns the program glotpod-ident.
func Program(version string) cli.Program {
	p := cli.Program{
		Name:    Name,
		Version: version,
		Default: serve.Command,
		Commands: []cli.Command{
			users.Migrate,
			users.Export,
			users.Import,
			users.Keygen,
			users.Rekey,
			users.User,
			operate.Status,
			operate.Drain,
			operate.Undrain,
			operate.Call,
			doctor.Command,
		},
	}
	p.PrintHelp = func(w io.Writer) { printHelp(w, p) }
	return p
}

func printHelp(w io.Writer, p cli.Program) {
	fmt.Fprint(w, "glotpod-ident is the identity service of GlotPod.\n\nUsage: glotpod-ident [command] [arguments]\n\nCommands:\n")
	p.PrintCommands(w)
	fmt.Fprint(w, `
glotpod-ident <command> --help describes a command.

Settings come from the environment and from the TOML file that the environment
variable GLOTPOD_IDENT_SETTINGS names. The variable of the setting amqp.host is
GLOTPOD_IDENT__AMQP__HOST.

`)
	for _, e := range config.Reference() {
		fmt.Fprintf(w, "  %s (%s)\n      %s\n", e.Key, e.Default, e.Help)
	}
	fmt.Fprint(w, `
Exit status: 0 after success and after an instance was asked to stop, 78 if the
settings or the schema are wrong or RabbitMQ refuses the login, 129 if RabbitMQ
or PostgreSQL is unreachable, 1 for other errors, 2 for wrong arguments.
`)
}
