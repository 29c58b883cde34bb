package main

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// writeTar writes files into an archive, in the order of their paths, as root's and with
// one time. files has the path of each file by its path in the archive.
func writeTar(w io.Writer, files map[string]string, at time.Time) error {
	archive := tar.NewWriter(w)
	for _, to := range slices.Sorted(maps.Keys(files)) {
		content, err := os.ReadFile(files[to])
		if err != nil {
			return err
		}
		info, err := os.Stat(files[to])
		if err != nil {
			return err
		}
		mode := int64(0o644)
		if info.Mode()&0o100 != 0 {
			mode = 0o755
		}
		header := &tar.Header{Name: to, Mode: mode, Size: int64(len(content)), ModTime: at, Format: tar.FormatPAX}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		if _, err := archive.Write(content); err != nil {
			return err
		}
	}
	return archive.Close()
}

// create writes a file of the results.
func (r *release) create(file string, write func(io.Writer) error) error {
	f, err := os.Create(filepath.Join(r.out, file))
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// writeTarGz writes an archive of files into the results.
func (r *release) writeTarGz(file string, files map[string]string) error {
	return r.create(file, func(w io.Writer) error {
		compressed, err := gzip.NewWriterLevel(w, gzip.BestCompression)
		if err != nil {
			return err
		}
		if err := writeTar(compressed, files, r.at); err != nil {
			return err
		}
		return compressed.Close()
	})
}

// writeArchives writes an archive for each architecture, for machines without a package manager.
func (r *release) writeArchives() error {
	for _, arch := range architectures {
		top := fmt.Sprintf("%s-%s-linux-%s", name, r.version, arch)
		files := map[string]string{
			name:                                   r.program(arch),
			"man/" + name + ".1":                   filepath.Join(r.work, name+".1"),
			"completions/" + name + ".bash":        filepath.Join(r.work, name+".bash"),
			"completions/_" + name:                 filepath.Join(r.work, "_"+name),
			"completions/" + name + ".fish":        filepath.Join(r.work, name+".fish"),
			"LICENSE":                              filepath.Join(r.root, "LICENSE"),
			"CHANGELOG.md":                         filepath.Join(r.root, "deploy/CHANGELOG.md"),
			"systemd/" + name + ".service":         filepath.Join(r.root, "deploy/systemd", name+".service"),
			"systemd/" + name + "-migrate.service": filepath.Join(r.root, "deploy/systemd", name+"-migrate.service"),
		}
		below := make(map[string]string)
		for to, from := range files {
			below[path.Join(top, to)] = from
		}
		if err := r.writeTarGz(top+".tar.gz", below); err != nil {
			return err
		}
	}
	return nil
}

// writeChart writes the Helm chart. A test makes sure that it has the version of the release.
func (r *release) writeChart() error {
	chart := filepath.Join(r.root, "deploy/chart")
	files := make(map[string]string)
	err := filepath.WalkDir(chart, func(from string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := strings.TrimPrefix(filepath.ToSlash(from), filepath.ToSlash(chart)+"/")
		switch {
		case entry.IsDir() && to == "ci":
			return fs.SkipDir // values for tests
		case !entry.IsDir():
			files[path.Join(name, to)] = from
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.writeTarGz(fmt.Sprintf("%s-chart-%s.tgz", name, r.version), files)
}

// writeChecksums writes the SHA-256 sums of all results, as sha256sum --check reads them.
func (r *release) writeChecksums() error {
	entries, err := os.ReadDir(r.out)
	if err != nil {
		return err
	}
	var sums strings.Builder
	for _, entry := range entries {
		content, err := os.ReadFile(filepath.Join(r.out, entry.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(content), entry.Name())
	}
	return os.WriteFile(filepath.Join(r.out, "SHA256SUMS"), []byte(sums.String()), 0o644)
}
