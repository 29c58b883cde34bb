package harness

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/glotpod/ident/cmd/internal/bench"
	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/commands"
	"github.com/glotpod/ident/cmd/internal/devcluster"
)

// playProgram plays the program by whose name this process was started, by default
// glotpod-ident, and exits.
func playProgram() {
	program := commands.Program
	switch filepath.Base(os.Args[0]) {
	case devcluster.Name:
		program = devcluster.Program
	case bench.Name:
		program = bench.Program
	}
	cli.Main(program("test"))
}

// LaunchDev is [Launch] for the program glotpod-ident-dev.
func LaunchDev(t *testing.T, env []string, args ...string) *Process {
	t.Helper()
	return LaunchProgram(t, filepath.Join(LinkPrograms(t), devcluster.Name), env, args...)
}

// LaunchBench is [Launch] for the program glotpod-ident-bench.
func LaunchBench(t *testing.T, env []string, args ...string) *Process {
	t.Helper()
	return LaunchProgram(t, filepath.Join(LinkPrograms(t), bench.Name), env, args...)
}

// LinkPrograms returns a folder in which each program is a hard link to this test
// binary. With a symbolic link, os.Executable would return the path of the binary,
// and a program would not find the others beside itself. The folder is beside the
// binary because a hard link does not cross file systems.
func LinkPrograms(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	folder, err := os.MkdirTemp(filepath.Dir(self), "programs-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	for _, name := range []string{commands.Name, devcluster.Name, bench.Name} {
		if err := os.Link(self, filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}
