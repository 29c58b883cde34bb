// Command glotpod-ident is the identity service of GlotPod, with the commands that
// its operators need.
package main

import (
	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/commands"
)

// version is set by the linker.
var version = "dev"

func main() { cli.Main(commands.Program(version)) }
