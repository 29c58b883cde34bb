// Command glotpod-ident is the identity service of GlotPod, together with the
// commands that its operators need.
package main

import "github.com/glotpod/ident/cmd/internal/cli"

// version is set by the linker.
var version = "dev"

func main() { cli.Main(version) }
