package commands_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/glotpod/ident/cmd/internal/bench"
	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/commands"
	"github.com/glotpod/ident/cmd/internal/devcluster"
)

// programs returns all programs of the module, by their names.
func programs() map[string]cli.Program {
	return map[string]cli.Program{
		commands.Name:   commands.Program("v1.2.3"),
		devcluster.Name: devcluster.Program("v1.2.3"),
		bench.Name:      bench.Program("v1.2.3"),
	}
}

// The test binary plays the program by whose name it is started.
func TestMain(m *testing.M) {
	if program, ok := programs()[filepath.Base(os.Args[0])]; ok {
		cli.Main(program)
	}
	os.Exit(m.Run())
}
