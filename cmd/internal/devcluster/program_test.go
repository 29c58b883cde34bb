package devcluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFindProgram(t *testing.T) {
	install := func(t *testing.T, folder string) string {
		t.Helper()
		path := filepath.Join(folder, instanceProgram)
		if err := os.WriteFile(path, nil, 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Run("beside the executable", func(t *testing.T) {
		folder, onPath := t.TempDir(), t.TempDir()
		t.Setenv("PATH", onPath)
		want := install(t, folder)
		install(t, onPath)
		if got, err := findProgram(folder); got != want || err != nil {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	})
	t.Run("on PATH", func(t *testing.T) {
		onPath := t.TempDir()
		t.Setenv("PATH", onPath)
		want := install(t, onPath)
		if got, err := findProgram(t.TempDir()); got != want || err != nil {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	})
	t.Run("missing", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		folder := t.TempDir()
		if got, err := findProgram(folder); err == nil || !strings.Contains(err.Error(), folder) {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

func TestEnvironOfInstances(t *testing.T) {
	c := &Cluster{folder: &folder{path: "/data"}, options: Options{
		Environ: []string{"PATH=/bin", "GLOTPOD_IDENT_SETTINGS=/etc/ident.toml", "GLOTPOD_IDENT__AMQP__HOST=production",
			"GLOTPOD_IDENT__LOG__LEVEL=debug"},
		Variables: []string{"GLOTPOD_IDENT__CLUSTER__PARTITIONS=4"},
	}}
	const want = "PATH=/bin GLOTPOD_IDENT__LOG__LEVEL=debug GLOTPOD_IDENT__CLUSTER__PARTITIONS=4 GLOTPOD_IDENT_SETTINGS=/data/ident.toml"
	if got := strings.Join(c.Environ(), " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
