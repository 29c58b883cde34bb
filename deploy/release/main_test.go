package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

func TestNewestVersion(t *testing.T) {
	for changelog, want := range map[string]string{
		"# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2026-01-31\n\n## [1.2.2] - 2026-01-01\n": "1.2.3",
		"## [2.0.0-rc.1] - 2026-01-31\n": "2.0.0-rc.1",
		"## 1.2.3\n":                     "",
		"":                               "",
	} {
		if got, err := newestVersion(changelog); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v", changelog, got, err)
		}
	}
}

// TestRelease builds a release twice, and uses what is in it.
func TestRelease(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	out, again := t.TempDir(), t.TempDir()
	for _, folder := range []string{out, again} {
		if err := build(root, folder); err != nil {
			t.Fatal(err)
		}
	}
	if err := build(root, out); err == nil {
		t.Error("a release was built into a folder that is not empty")
	}
	changelog, err := os.ReadFile("../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	version, err := newestVersion(string(changelog))
	if err != nil {
		t.Fatal(err)
	}
	run := func(t *testing.T, program string, args ...string) string {
		t.Helper()
		cmd := exec.Command(program, args...)
		cmd.Dir = out
		text, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q: %v: %s", program, args, err, text)
		}
		return string(text)
	}

	t.Run("same_source_same_files", func(t *testing.T) {
		sums := func(folder string) string {
			text, err := os.ReadFile(filepath.Join(folder, "SHA256SUMS"))
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		if first, second := sums(out), sums(again); first != second {
			t.Errorf("two builds differ:\n%s\n%s", first, second)
		}
		if lines := strings.Count(run(t, "sha256sum", "--check", "SHA256SUMS"), ": OK\n"); lines != 10 {
			t.Errorf("%d files were checked", lines)
		}
	})
	t.Run("archive", func(t *testing.T) {
		top := "glotpod-ident-" + version + "-linux-" + runtime.GOARCH
		folder := t.TempDir()
		run(t, "tar", "-xzf", top+".tar.gz", "-C", folder)
		checkVersion(t, filepath.Join(folder, top, name), version)
	})
	t.Run("deb", func(t *testing.T) {
		folder := t.TempDir()
		run(t, "dpkg-deb", "--extract", "glotpod-ident_"+version+"_"+runtime.GOARCH+".deb", folder)
		checkVersion(t, filepath.Join(folder, "usr/bin", name), version)
		unit, err := os.ReadFile(filepath.Join(folder, "usr/lib/systemd/system", name+".service"))
		if err != nil || !strings.Contains(string(unit), "\nExecStart=/usr/bin/glotpod-ident serve\n") {
			t.Errorf("the unit starts another program: %v\n%s", err, unit)
		}
		info, err := os.Stat(filepath.Join(folder, "etc/glotpod-ident/settings.toml"))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("others may read the settings: %v, %v", info, err)
		}
	})
	t.Run("rpm", func(t *testing.T) {
		for _, arch := range []string{"x86_64", "aarch64"} {
			listed := run(t, "rpm", "--query", "--package", "--list", "glotpod-ident-"+version+"-1."+arch+".rpm")
			for _, file := range []string{"/usr/bin/glotpod-ident", "/etc/glotpod-ident/settings.toml", "/usr/lib/systemd/system/glotpod-ident.service"} {
				if !strings.Contains(listed, file+"\n") {
					t.Errorf("%s lacks %s", arch, file)
				}
			}
		}
	})
	t.Run("image", func(t *testing.T) { checkImage(t, run, version) })
	t.Run("chart", func(t *testing.T) {
		helm, err := filepath.Abs("../../bin/deploytest/helm")
		if err != nil {
			t.Fatal(err)
		}
		values, err := filepath.Glob("../chart/ci/*.yaml")
		if err != nil || len(values) == 0 {
			t.Fatal("no values: ", err)
		}
		first, err := filepath.Abs(values[0])
		if err != nil {
			t.Fatal(err)
		}
		manifests := run(t, helm, "template", "ident", "glotpod-ident-chart-"+version+".tgz", "--values", first)
		if !strings.Contains(manifests, "kind: StatefulSet\n") {
			t.Error("the chart makes no StatefulSet")
		}
	})
	t.Run("bill_of_materials", func(t *testing.T) {
		f, err := os.Open(filepath.Join(out, "glotpod-ident-"+version+"-linux-arm64.cdx.json"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var bom cdx.BOM
		if err := cdx.NewBOMDecoder(f, cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
			t.Fatal(err)
		}
		has := func(module string) bool {
			return slices.ContainsFunc(*bom.Components, func(c cdx.Component) bool { return c.Name == module })
		}
		if !has("std") || !has("github.com/jackc/pgx/v5") || !has("github.com/rabbitmq/amqp091-go") || has("github.com/goreleaser/nfpm/v2") {
			t.Errorf("the components are %v", *bom.Components)
		}
	})
}

func checkVersion(t *testing.T, program, version string) {
	t.Helper()
	text, err := exec.Command(program, "version").Output()
	if err != nil || !strings.HasPrefix(string(text), name+" "+version+"\n") {
		t.Errorf("version prints %q, %v", text, err)
	}
}

// checkImage compares the image with deploy/Dockerfile, and starts its program.
func checkImage(t *testing.T, run func(*testing.T, string, ...string) string, version string) {
	folder := t.TempDir()
	run(t, "tar", "-xf", "glotpod-ident-"+version+"-image.tar", "-C", folder)
	path, err := layout.FromPath(folder)
	if err != nil {
		t.Fatal(err)
	}
	outer, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := outer.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		t.Fatalf("the layout has %v, %v", manifest, err)
	}
	index, err := outer.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if manifest, err = index.IndexManifest(); err != nil || len(manifest.Manifests) != len(architectures) {
		t.Fatalf("the image has %v, %v", manifest, err)
	}
	for _, of := range manifest.Manifests {
		image, err := index.Image(of.Digest)
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigFile()
		if err != nil || config.Architecture != of.Platform.Architecture {
			t.Fatalf("%v: the configuration is %v, %v", of.Platform, config, err)
		}
		commit := config.Config.Labels["org.opencontainers.image.revision"]
		if want := imageConfig(version, commit); !reflect.DeepEqual(config.Config, want) || len(commit) != 40 {
			t.Errorf("the configuration is %+v, want %+v", config.Config, want)
		}
	}
}

// TestDockerfile: the image of a release has the configuration of deploy/Dockerfile.
func TestDockerfile(t *testing.T) {
	text, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	_, final, _ := strings.Cut(string(text), "\nFROM scratch\n")
	final = strings.ReplaceAll(final, "\\\n", " ")
	one := func(pattern string) string {
		t.Helper()
		found := regexp.MustCompile(`(?m)^` + pattern + `$`).FindStringSubmatch(final)
		if found == nil {
			t.Fatalf("the Dockerfile has no %s", pattern)
		}
		return found[1]
	}
	config := imageConfig("$VERSION", "$REVISION")
	labels := make(map[string]string)
	for _, found := range regexp.MustCompile(`(org\.opencontainers\.[a-z.]+)="([^"]*)"`).FindAllStringSubmatch(final, -1) {
		labels[found[1]] = found[2]
	}
	for what, is := range map[string]bool{
		"labels":     reflect.DeepEqual(labels, config.Labels),
		"user":       one("USER (.*)") == config.User,
		"variables":  one("ENV (.*)") == config.Env[0],
		"port":       reflect.DeepEqual(config.ExposedPorts, map[string]struct{}{one("EXPOSE (.*)"): {}}),
		"entrypoint": one(`ENTRYPOINT \["(.*)"\]`) == config.Entrypoint[0],
		"command":    one(`CMD \["(.*)"\]`) == config.Cmd[0],
	} {
		if !is {
			t.Errorf("the image has other %s than the Dockerfile says", what)
		}
	}
}
