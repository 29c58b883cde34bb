// Command glotpod-ident-dev runs a cluster of glotpod-ident on this machine, with a
// broker and a database of its own, for development.
package main

import (
	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/devcluster"
)

// version is set by the linker.
var version = "dev"

func main() { cli.Main(devcluster.Program(version)) }
