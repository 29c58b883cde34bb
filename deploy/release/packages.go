package main

import (
	_ "embed"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

//go:embed nfpm.yaml
var packageConfig string

// writePackages writes a package for each architecture and package manager, as nfpm.yaml says.
func (r *release) writePackages() error {
	units, err := r.packagedUnits()
	if err != nil {
		return err
	}
	for _, arch := range architectures {
		values := map[string]string{
			"ARCH": arch, "VERSION": r.version, "PROGRAM": r.program(arch), "WORK": r.work, "ROOT": r.root, "UNITS": units,
		}
		for _, format := range []string{"deb", "rpm"} {
			text := os.Expand(packageConfig, func(key string) string { return values[key] })
			config, err := nfpm.Parse(strings.NewReader(text))
			if err != nil {
				return err
			}
			if err := r.writePackage(&config, format); err != nil {
				return fmt.Errorf("%s for %s: %w", format, arch, err)
			}
		}
	}
	return nil
}

func (r *release) writePackage(config *nfpm.Config, format string) error {
	info, err := config.Get(format)
	if err != nil {
		return err
	}
	info.MTime = r.at
	for _, content := range info.Contents {
		content.FileInfo.MTime = r.at
	}
	packager, err := nfpm.Get(format)
	if err != nil {
		return err
	}
	info = nfpm.WithDefaults(info)
	if err := nfpm.PrepareForPackager(info, format); err != nil {
		return err
	}
	return r.create(packager.ConventionalFileName(info), func(w io.Writer) error { return packager.Package(info, w) })
}

// packagedUnits returns a folder with the units of systemd. In a package, the program is in /usr/bin.
func (r *release) packagedUnits() (string, error) {
	units := filepath.Join(r.work, "systemd")
	if err := os.Mkdir(units, 0o755); err != nil {
		return "", err
	}
	sources, err := filepath.Glob(filepath.Join(r.root, "deploy/systemd/*.service"))
	if err != nil || len(sources) == 0 {
		return "", fmt.Errorf("no units: %w", err)
	}
	for _, source := range sources {
		text, err := os.ReadFile(source)
		if err != nil {
			return "", err
		}
		var lines []string
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "ExecStart=") {
				line = strings.Replace(line, "/usr/local/bin/", "/usr/bin/", 1)
			}
			lines = append(lines, line)
		}
		_, unit, _ := strings.Cut(strings.Join(lines, ""), "\n\n") // without how to install it by hand
		if err := os.WriteFile(filepath.Join(units, filepath.Base(source)), []byte(unit), 0o644); err != nil {
			return "", err
		}
	}
	return units, nil
}
