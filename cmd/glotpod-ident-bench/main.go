// Command glotpod-ident-bench measures glotpod-ident.
package main

import (
	"github.com/glotpod/ident/cmd/internal/bench"
	"github.com/glotpod/ident/cmd/internal/cli"
)

// version is set by the linker.
var version = "dev"

func main() { cli.Main(bench.Program(version)) }
