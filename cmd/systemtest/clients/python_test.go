package clients

import (
	"os/exec"
	"testing"
)

// python returns a Python that has the libraries. Debian's packages are those of Debian's Python,
// which need not be the first one on the PATH.
func python(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"python3", "/usr/bin/python3"} {
		if exec.CommandContext(t.Context(), program, "-c", "import aioamqp, msgpack, pika").Run() == nil {
			return program
		}
	}
	t.Fatal("no Python has aioamqp, msgpack and pika; deploy/install-dependencies.sh test installs them")
	return ""
}

func TestPython(t *testing.T) {
	program, at := python(t), newBrokers(t)
	for _, library := range []string{"pika", "aioamqp"} {
		t.Run(library, func(t *testing.T) {
			conform(t, library, drive(t, program, "-B", "../../../deploy/clients/python/conformance.py", library, at.asText(t)))
		})
	}
}
