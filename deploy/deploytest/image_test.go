package deploytest

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The tests of the image's program run the build command of the Dockerfile in a folder with
// the same source. So they need no Docker engine.
func TestProgramIsReproducible(t *testing.T) {
	here, err := os.ReadFile(buildAsImage(t, repository(t)))
	if err != nil {
		t.Fatal(err)
	}
	// Compile everything again, in another folder and with an empty cache.
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	copySource(t, elsewhere)
	there, err := os.ReadFile(buildAsImage(t, elsewhere, "GOCACHE="+filepath.Join(t.TempDir(), "cache")))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(here, there) {
		t.Error("two builds of the same source differ")
	}

	file, err := elf.NewFile(bytes.NewReader(here))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Error("the program is not static, and the image has no libraries")
		}
	}
}

func TestProgramVersion(t *testing.T) {
	out := mustRun(t, exec.Command(buildAsImage(t, repository(t)), "version"))
	if !strings.HasPrefix(out, "glotpod-ident v1.2.3-test\n") || !strings.Contains(out, "commit  0123abc\n") {
		t.Errorf("version prints %q", out)
	}
}

func repository(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// copySource copies the files that the image's build gets.
func copySource(t *testing.T, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	mustRun(t, exec.Command("sh", "-c", `cd "$1" && tar -c --exclude=./.git --exclude=./bin --exclude=./dist . | tar -x -C "$2"`,
		"sh", repository(t), dir))
}

var buildCommand = regexp.MustCompile(`(?m)^RUN ((?:.*\\\n)*.*go build (?:.*\\\n)*.*)$`)

// buildAsImage runs the Dockerfile's build command in a folder, and returns the path of the
// program.
func buildAsImage(t *testing.T, dir string, environ ...string) string {
	t.Helper()
	dockerfile, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	found := buildCommand.FindAllSubmatch(dockerfile, -1)
	if len(found) != 1 {
		t.Fatalf("the Dockerfile has %d build commands", len(found))
	}
	program := filepath.Join(t.TempDir(), "glotpod-ident")
	script := string(found[0][1])
	if strings.Count(script, "-o /glotpod-ident") != 1 {
		t.Fatalf("the output is not /glotpod-ident: %s", script)
	}
	cmd := exec.Command("sh", "-euc", strings.Replace(script, "-o /glotpod-ident", `-o "$OUT"`, 1))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), append(environ, "OUT="+program, "VERSION=v1.2.3-test", "REVISION=0123abc", "TARGETOS=", "TARGETARCH=")...)
	mustRun(t, cmd)
	return program
}
