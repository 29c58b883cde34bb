// Package devcluster runs a private cluster on this machine: a RabbitMQ, a PostgreSQL
// and instances of glotpod-ident. It holds the program glotpod-ident-dev, and what the
// benchmark needs of it.
package devcluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/glotpod/ident/cmd/internal/cli"
)

// Name is the name of the program.
const Name = "glotpod-ident-dev"

// Program returns the program glotpod-ident-dev.
func Program(version string) cli.Program {
	return cli.Program{Name: Name, Version: version, New: newRoot}
}

// instanceProgram is the program that instances are run with.
const instanceProgram = "glotpod-ident"

// FindProgram returns the path of the program glotpod-ident. It looks in the folder of
// the running executable, then on PATH.
func FindProgram() (string, error) {
	executable, err := os.Executable()
	if err != nil {
		return "", err
	}
	return findProgram(filepath.Dir(executable))
}

func findProgram(folder string) (string, error) {
	path, err := exec.LookPath(filepath.Join(folder, instanceProgram))
	if errors.Is(err, os.ErrNotExist) {
		path, err = exec.LookPath(instanceProgram)
	}
	if err != nil {
		return "", fmt.Errorf("%s is neither in %s nor on PATH (make build builds it): %w", instanceProgram, folder, err)
	}
	return filepath.Abs(path)
}
