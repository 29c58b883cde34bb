// Package commands has the tree of commands of the program glotpod-ident.
package commands

import (
	"github.com/spf13/cobra"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/doctor"
	"github.com/glotpod/ident/cmd/internal/operate"
	"github.com/glotpod/ident/cmd/internal/serve"
	"github.com/glotpod/ident/cmd/internal/users"
	"github.com/glotpod/ident/store"
)

// Name is the name of the program.
const Name = "glotpod-ident"

const about = `The identity service of GlotPod. Without a command, the program runs an instance.

Settings come from the environment and from the TOML file that the environment
variable GLOTPOD_IDENT_SETTINGS names. The variable of the setting amqp.host is
GLOTPOD_IDENT__AMQP__HOST. "glotpod-ident settings" describes all settings.`

// Program returns the program glotpod-ident.
func Program(version string) cli.Program {
	return cli.Program{Name: Name, Version: version, Schema: store.SchemaVersion(), Manual: manualSections, New: newRoot}
}

func newRoot(env *cli.Env) *cobra.Command {
	runInstance := serve.New(env)
	root := &cobra.Command{Use: Name, Short: "the identity service of GlotPod", Long: about, RunE: runInstance.RunE}
	cli.AddGroup(root, "Run", runInstance, operate.NewDrain(env), operate.NewUndrain(env), operate.NewMove(env), operate.NewRepartition(env))
	cli.AddGroup(root, "Look", operate.NewStatus(env), doctor.New(env), newSettings(env))
	cli.AddGroup(root, "Data", operate.NewCall(env), users.NewUser(env), users.NewMigrate(env), users.NewExport(env), users.NewImport(env))
	cli.AddGroup(root, "Keys", users.NewKeygen(env), users.NewRekey(env))
	return root
}
