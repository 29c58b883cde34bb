// Release builds what is published of a version: archives of the programs, packages for
// Debian and Red Hat, the image, the chart, bills of materials, and the checksums of all of these.
//
//	go run . --out ../../dist
//
// The version is the newest heading of deploy/CHANGELOG.md. The same commit, Go and certificate
// authorities give the same files, byte for byte.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const name = "glotpod-ident"

var architectures = []string{"amd64", "arm64"}

// A release is what is built.
type release struct {
	root    string // of the repository
	out     string // an empty folder for the results
	work    string // a folder for what the results are made of
	version string // as in the changelog: "1.2.3"
	commit  string
	at      time.Time // the time of all files: that of the commit
}

func main() {
	root := flag.String("root", "../..", "the root of the repository")
	out := flag.String("out", "../../dist", "an empty or missing `folder` for the results")
	flag.Parse()
	if err := build(*root, *out); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func build(root, out string) error {
	r, err := newRelease(root, out)
	if err != nil {
		return err
	}
	defer os.RemoveAll(r.work)
	for _, step := range []func() error{
		r.buildPrograms, r.writeArchives, r.writePackages, r.writeImage, r.writeChart, r.writeMaterials, r.writeChecksums,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func newRelease(root, out string) (*release, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	r := &release{root: root, out: out}
	changelog, err := os.ReadFile(filepath.Join(root, "deploy/CHANGELOG.md"))
	if err != nil {
		return nil, err
	}
	if r.version, err = newestVersion(string(changelog)); err != nil {
		return nil, err
	}
	if r.commit, err = r.git("rev-parse", "HEAD"); err != nil {
		return nil, err
	}
	seconds, err := r.git("log", "-1", "--format=%ct")
	if err != nil {
		return nil, err
	}
	unix, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return nil, err
	}
	r.at = time.Unix(unix, 0).UTC()
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, err
	}
	if entries, err := os.ReadDir(out); err != nil {
		return nil, err
	} else if len(entries) > 0 {
		return nil, fmt.Errorf("%s is not empty", out)
	}
	r.work, err = os.MkdirTemp("", name+"-release-")
	return r, err
}

var versionHeading = regexp.MustCompile(`(?m)^## \[(\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?)\]`)

// newestVersion returns the version of the first heading that has one.
func newestVersion(changelog string) (string, error) {
	found := versionHeading.FindStringSubmatch(changelog)
	if found == nil {
		return "", errors.New("the changelog has no heading with a version, such as ## [1.2.3] - 2026-01-31")
	}
	return found[1], nil
}

func (r *release) git(args ...string) (string, error) {
	out, err := r.command("git", args...).Output()
	return strings.TrimSpace(string(out)), err
}

// command returns a command that runs in the root of the repository, and shows its errors.
func (r *release) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stderr = r.root, os.Stderr
	return cmd
}

// program returns the path of the program for an architecture.
func (r *release) program(arch string) string { return filepath.Join(r.work, arch, name) }

// buildPrograms builds the program for each architecture as deploy/Dockerfile does, and its
// manual page and completions.
func (r *release) buildPrograms() error {
	flags := "-s -w -buildid= -X main.version=" + r.version + " -X github.com/glotpod/ident/cmd/internal/cli.Commit=" + r.commit
	goBuild := func(output string, env ...string) error {
		cmd := r.command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", output, "./cmd/"+name)
		cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off"), env...)
		return cmd.Run()
	}
	for _, arch := range architectures {
		if err := goBuild(r.program(arch), "GOOS=linux", "GOARCH="+arch); err != nil {
			return err
		}
	}
	here := filepath.Join(r.work, "here", name)
	if err := goBuild(here); err != nil {
		return err
	}
	for file, args := range map[string][]string{
		name + ".1":    {"man"},
		name + ".bash": {"completion", "bash"},
		"_" + name:     {"completion", "zsh"},
		name + ".fish": {"completion", "fish"},
	} {
		text, err := r.command(here, args...).Output()
		if err != nil {
			return fmt.Errorf("%s %v: %w", name, args, err)
		}
		if err := os.WriteFile(filepath.Join(r.work, file), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
